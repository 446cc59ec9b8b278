# SPDX-License-Identifier: Apache-2.0
# fish completion for discoverctl. It starts no process: controllers are read from /run/discoverd and from sysfs.

function __discoverctl_controllers
    for entry in /run/discoverd/controllers/*/
        set -l name (string replace -r '.*/([^/]+)/$' '$1' -- $entry)
        echo $name
        string replace -rf '^.*?:(nqn\..*?)(::.*)?$' '$1' -- $name
    end
    for entry in /sys/class/nvme/nvme*/
        test -r $entry/transport; or continue
        read -l transport <$entry/transport
        test "$transport" = pcie; and continue
        string replace -r '.*/([^/]+)/$' '$1' -- $entry
        read -l nqn <$entry/subsysnqn; and echo $nqn
    end
end

set -l named list status why log-page wait restart start stop disconnect confirm exclude unexclude

complete -c discoverctl -f
complete -c discoverctl -n __fish_use_subcommand -l version -d 'show the version'
complete -c discoverctl -l help -d 'show help'
complete -c discoverctl -n __fish_use_subcommand -a list -d 'all controllers, whoever they belong to'
complete -c discoverctl -n __fish_use_subcommand -a topology -d 'subsystems with paths, namespaces, and what is on them'
complete -c discoverctl -n __fish_use_subcommand -a status -d 'how discoverd is, or all about controllers'
complete -c discoverctl -n __fish_use_subcommand -a why -d 'who asks for a controller, and what would change it'
complete -c discoverctl -n __fish_use_subcommand -a doctor -d 'look for what is wrong on this host'
complete -c discoverctl -n __fish_use_subcommand -a log-page -d 'what a discovery controller lists'
complete -c discoverctl -n __fish_use_subcommand -a monitor -d 'a line for each thing that happens'
complete -c discoverctl -n __fish_use_subcommand -a wait -d 'wait until controllers are live, or gone'
complete -c discoverctl -n __fish_use_subcommand -a metrics -d 'how things are as OpenMetrics text'
complete -c discoverctl -n __fish_use_subcommand -a plan -d 'what the configuration in its files would change'
complete -c discoverctl -n __fish_use_subcommand -a config -d 'the configuration as it is read'
complete -c discoverctl -n __fish_use_subcommand -a identity -d 'who this host is to its targets'
complete -c discoverctl -n __fish_use_subcommand -a log -d 'what discoverd writes to the journal'
complete -c discoverctl -n __fish_use_subcommand -a connect -d 'connect what is not configured, until the next boot'
complete -c discoverctl -n __fish_use_subcommand -a restart -d 'disconnect and connect again'
complete -c discoverctl -n __fish_use_subcommand -a start -d 'start the units of controllers'
complete -c discoverctl -n __fish_use_subcommand -a stop -d 'disconnect what is not in use, and keep it so'
complete -c discoverctl -n __fish_use_subcommand -a disconnect -d 'the same, by force if need be'
complete -c discoverctl -n __fish_use_subcommand -a confirm -d 'disconnect now what a log page no longer lists'
complete -c discoverctl -n __fish_use_subcommand -a exclude -d 'have controllers not connected'
complete -c discoverctl -n __fish_use_subcommand -a unexclude -d 'take exclusions out of all lists'
complete -c discoverctl -n __fish_use_subcommand -a import-stas -d "turn nvme-stas's configuration into ours"
complete -c discoverctl -n __fish_use_subcommand -a import-nvme-cli -d "turn nvme-cli 2's configuration into ours"

complete -c discoverctl -n "__fish_seen_subcommand_from $named" -a '(__discoverctl_controllers)'
complete -c discoverctl -n '__fish_seen_subcommand_from list' -l no-legend -d 'leave out titles and count'
complete -c discoverctl -n '__fish_seen_subcommand_from list' -s o -l output -x -a 'wide json name' -d 'more, or for programs'
complete -c discoverctl -n '__fish_seen_subcommand_from list' -l sort -x -a 'subsystem state device address since'
complete -c discoverctl -n '__fish_seen_subcommand_from list' -l state -x -d 'only those in such a state'
complete -c discoverctl -n '__fish_seen_subcommand_from list' -l watch -d 'go on showing what changes'
complete -c discoverctl -n '__fish_seen_subcommand_from list topology status why doctor log-page monitor exclude plan config identity' \
    -l json -d 'for programs'
complete -c discoverctl -n '__fish_seen_subcommand_from wait' -l for -x -a 'live any-path gone' -d 'what is waited for'
complete -c discoverctl -n '__fish_seen_subcommand_from wait' -l timeout -x -d '0 for ever'
complete -c discoverctl -n '__fish_seen_subcommand_from metrics' -l output -r -F -d 'write it to a file'
complete -c discoverctl -n '__fish_seen_subcommand_from plan config' -l config -x -a '(__fish_complete_directories)'
complete -c discoverctl -n '__fish_seen_subcommand_from config' -a show
complete -c discoverctl -n '__fish_seen_subcommand_from identity' -a 'show init set-symname'
complete -c discoverctl -n '__fish_seen_subcommand_from log' -a 'err warning info debug default'
complete -c discoverctl -n '__fish_seen_subcommand_from connect' -l transport -x -a 'tcp rdma fc'
complete -c discoverctl -n '__fish_seen_subcommand_from connect' -l host-iface -x -d 'through this interface'
complete -c discoverctl -n '__fish_seen_subcommand_from connect' -l host-traddr -x -d 'from this address'
complete -c discoverctl -n '__fish_seen_subcommand_from disconnect import-stas import-nvme-cli' -l force -d insist
complete -c discoverctl -n '__fish_seen_subcommand_from confirm exclude import-stas import-nvme-cli' -l dry-run -d 'only show'
complete -c discoverctl -n '__fish_seen_subcommand_from exclude' -l list -x -d 'another list'
complete -c discoverctl -n '__fish_seen_subcommand_from import-stas import-nvme-cli' -l from -x -a '(__fish_complete_directories)'
complete -c discoverctl -n '__fish_seen_subcommand_from import-stas import-nvme-cli' -l to -x -a '(__fish_complete_directories)'
