# SPDX-License-Identifier: Apache-2.0
# bash completion for discoverctl. It starts no process: controllers are read from /run/discoverd and from sysfs, with
# what bash has built in. tests/unit/test_completions.py holds verbs and options to those of the command.

_discoverctl_verbs() {
    printf '%s ' list topology status why doctor log-page monitor wait metrics plan config identity log connect restart start \
        stop disconnect confirm exclude unexclude import-stas import-nvme-cli
}

_discoverctl_options() {
    case $1 in
    list) printf '%s' '--output --json --sort --state --watch --no-legend' ;;
    topology | status | why | doctor | log-page | monitor) printf '%s' '--json' ;;
    wait) printf '%s' '--for --timeout' ;;
    metrics) printf '%s' '--output' ;;
    plan | 'config show') printf '%s' '--config --json' ;;
    'identity show') printf '%s' '--json' ;;
    connect) printf '%s' '--transport --host-iface --host-traddr' ;;
    disconnect) printf '%s' '--force' ;;
    confirm) printf '%s' '--dry-run' ;;
    exclude) printf '%s' '--dry-run --list --json' ;;
    import-stas | import-nvme-cli) printf '%s' '--from --to --dry-run --force' ;;
    '') printf '%s' '--version' ;;
    esac
}

# Adds to the array "found": instances, NQNs, and devices of controllers, those that begin with $1.
_discoverctl_controllers() {
    local cur=$1 root=${_discoverctl_root-} path name nqn transport
    for path in "$root"/run/discoverd/controllers/*/; do
        name=${path%/}
        name=${name##*/}
        [[ $name == '*' ]] && continue
        [[ $name == "$cur"* ]] && found+=("$name")
        # Only of who asks for a unit: it is the instance once more.
        [[ $cur == nvme-* && nvme-ctrl@$name.service == "$cur"* ]] && found+=("nvme-ctrl@$name.service")
        nqn=nqn.${name#*:nqn.}
        nqn=${nqn%%::*}
        [[ $name == *:nqn.* && $nqn == "$cur"* ]] && found+=("$nqn")
    done
    for path in "$root"/sys/class/nvme/nvme*/; do
        [[ -r ${path}transport ]] || continue
        IFS= read -r transport <"${path}transport" && IFS= read -r nqn <"${path}subsysnqn" || continue
        [[ $transport == pcie ]] && continue
        name=${path%/}
        name=${name##*/}
        [[ $name == "$cur"* ]] && found+=("$name")
        [[ $nqn == "$cur"* ]] && found+=("$nqn")
    done
} 2>/dev/null

_discoverctl() {
    local line=${COMP_LINE:0:COMP_POINT} words cur verb='' part='' word option='' known='' candidate
    local -a found=()
    local -A seen=()
    COMPREPLY=()
    # By blanks alone: bash itself ends a word at each colon, of which names are full.
    read -ra words <<<"$line"
    cur=''
    if [[ $line != *[[:space:]] ]]; then
        cur=${words[-1]}
        unset 'words[-1]'
    fi
    for word in "${words[@]:1}"; do
        if [[ $word == -* ]]; then
            option=$word
            continue
        fi
        case $option in
        --for | --timeout | -o | --output | --sort | --state | --config | --transport | --host-iface | --host-traddr | --list | --from | --to)
            option=''
            continue
            ;;
        esac
        if [[ -z $verb ]]; then
            verb=$word
        elif [[ -z $part && ( $verb == config || $verb == identity ) ]]; then
            part=$word
        fi
        option=''
    done
    if [[ $cur == --*=* ]]; then
        option=${cur%%=*}
        cur=${cur#*=}
    elif [[ $option == *=* || ( -n $option && ${words[-1]} != "$option" ) ]]; then
        option=''
    fi
    case $option in
    --for) known='live any-path gone' ;;
    --sort) known='subsystem state device address since' ;;
    --transport) known='tcp rdma fc' ;;
    --host-iface)
        for word in "${_discoverctl_root-}"/sys/class/net/*/; do
            word=${word%/}
            known+="${word##*/} "
        done
        ;;
    -o) known='wide json name' ;;
    --output | --config | --from | --to)
        if [[ $verb == list ]]; then
            known='wide json name'
        else
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
        fi
        ;;
    --timeout | --list | --host-traddr | --state) return ;;
    *)
        if [[ $cur == -* ]]; then
            known="$(_discoverctl_options "$verb${part:+ $part}") --help"
        elif [[ -z $verb ]]; then
            known=$(_discoverctl_verbs)
        else
            case "$verb $part" in
            'config ') known=show ;;
            'identity ') known='show init set-symname' ;;
            'log ') known='err warning info debug default' ;;
            'list ' | 'status ' | 'why ' | 'log-page ' | 'wait ' | 'restart ' | 'start ' | 'stop ' | 'disconnect ' | 'confirm ' | \
                'exclude ' | 'unexclude ') _discoverctl_controllers "$cur" ;;
            esac
        fi
        ;;
    esac
    for word in $known; do
        [[ $word == "$cur"* ]] && found+=("$word")
    done
    for candidate in "${found[@]}"; do
        [[ -n ${seen[$candidate]-} ]] && continue
        seen[$candidate]=1
        # What bash takes for the word begins after the last colon.
        [[ $cur == *:* && $COMP_WORDBREAKS == *:* ]] && candidate=${candidate#"${cur%"${cur##*:}"}"}
        printf -v candidate %q "$candidate"
        COMPREPLY+=("$candidate")
    done
}

complete -F _discoverctl discoverctl
