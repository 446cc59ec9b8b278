# SPDX-License-Identifier: Apache-2.0
"""discoverctl's verbs that wait, connect and tell, on a real host; what an ordinary user sees; the units beside it."""

import json
import re
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.lab import scenario
from tests.lab.machine import Machine
from tests.lab.scenario import DISCOVERY, GENEROUS, nqn, unit_name
from tests.lab.test_authentication import make_key
from tests.lab.test_discoverctl import NOT_LIVE, NOT_PERMITTED, TWO_PATHS, UNKNOWN, ctl, listed

TIMED_OUT = 6
NOBODY = "runuser -u nobody --"
LOST, CANNOT_CONNECT = "c9a43174fa9447658f97317ee1ca89f1", "2839e690efc3498b8b345dc2ca8ddbe0"
PROM = "/var/lib/prometheus/node-exporter"


@pytest.fixture
def host(host: Machine) -> Iterator[Machine]:
    host.run("cp -a /etc/nvme/hostnqn /etc/nvme/hostid /root/")
    yield host
    host.run(f"cp -a /root/hostnqn /root/hostid /etc/nvme/; rm -rf {PROM}; systemctl stop discoverd-metrics.timer")


def test_wait(host: Machine) -> None:
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420 198.51.100.1:4420")
    host.cut_link("path1", silent=True)
    scenario.start(host, TWO_PATHS)
    ctl(host, f"wait --for=any-path --timeout=60 {nqn(1)}")
    assert "198.51.100.1" in ctl(host, f"wait --timeout=1 {nqn(1)}", TIMED_OUT)[1]
    assert "there is no controller" in ctl(host, "wait --timeout=1 nqn.2024-08.com.example:none", UNKNOWN)[1]
    waiting = threading.Thread(target=ctl, args=(host, "wait --timeout=90"))
    waiting.start()
    host.restore_link("path1")
    waiting.join()
    assert scenario.live(host) == [nqn(1), nqn(1)]
    ctl(host, f"stop {nqn(1)}")
    ctl(host, f"wait --for=gone --timeout=10 {nqn(1)}")


def test_restart_of_what_is_in_use_keeps_its_connection(host: Machine, allow_journal: Callable[[str], None]) -> None:
    allow_journal("in use by /mnt")
    allow_journal("Failed with result 'exit-code'")
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    scenario.start(host, TWO_PATHS.rsplit("controller", 1)[0])
    scenario.wait_live(host, 1)
    before = scenario.controllers(host)
    pid = scenario.unit(host, unit_name(1)).main_pid
    host.wait_until("test -b /dev/nvme0n1", what="the disk is there")
    host.run("mkfs.ext4 -q /dev/nvme0n1 && mount /dev/nvme0n1 /mnt")
    try:
        assert "live nvme0" in ctl(host, "restart nvme0")[0]
        assert scenario.controllers(host) == before
        assert scenario.unit(host, unit_name(1)).main_pid != pid
        host.run("dd if=/dev/zero of=/mnt/file bs=4k count=8 conv=fsync")
    finally:
        host.run("umount -l /mnt")


def test_log_page(host: Machine) -> None:
    host.run("lab-target up --subsystems 3 --ports 192.0.2.1:4420")
    host.run(f"mkdir -p /etc/nvme && printf '[exclusions]\\nexclusion = nqn={nqn(3)}\\n' >/etc/nvme/exclusions.conf")
    scenario.start(host)
    scenario.wait_live(host, 3)
    text, _ = ctl(host, f"log-page {DISCOVERY}")
    rows = {line.split()[4]: line.split()[5] for line in text.splitlines() if line.startswith("subsystem")}
    assert rows == {nqn(1): "connected", nqn(2): "connected", nqn(3): "excluded"}
    (page,) = json.loads(ctl(host, f"log-page --json {DISCOVERY}")[0])["log_pages"]
    assert page["age_seconds"] < 300


def test_connect_until_the_next_boot(host: Machine) -> None:
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    scenario.start(host, "")
    assert "live nvme0" in ctl(host, f"connect 192.0.2.1:4420 {nqn(1)}")[0]
    assert scenario.unit(host, unit_name(1)).active == "active"
    before = scenario.controllers(host)
    host.run("systemctl restart discoverd.service", timeout=GENEROUS)
    scenario.wait_status(host, "1 controller: 1 live")
    assert scenario.controllers(host) == before
    assert "configured at /run/discoverd/nvme-fabrics.conf.d/" in ctl(host, "why nvme0")[0]
    ctl(host, "connect 192.0.2.1:4421 nqn.2024-08.com.example:vol1", NOT_LIVE)
    # It is looked after, and ended, like any other.
    ctl(host, "stop nvme0")
    assert "live" in ctl(host, f"connect 192.0.2.1:4420 {nqn(1)}")[0]


def test_unexclude_returns_when_it_has_taken_effect(host: Machine) -> None:
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    host.run(f"printf '[exclusions]\\nexclusion = nqn={nqn(1)}\\n' >/etc/nvme/exclusions.conf")
    scenario.start(host)
    scenario.wait_status(host, "1 excluded")
    ctl(host, f"unexclude {nqn(1)}")
    assert [one["excluded_by"] for one in listed(host).values() if one["subsysnqn"] == nqn(1)] == [""]
    ctl(host, f"wait --timeout=60 {nqn(1)}")
    ctl(host, f"unexclude {nqn(1)}", UNKNOWN)


def test_plan_says_what_a_reload_does(host: Machine) -> None:
    host.run("lab-target up --subsystems 2 --ports 192.0.2.1:4420")
    scenario.start(host)
    scenario.wait_live(host, 3)
    scenario.wait_status(host, "3 controllers: 3 live")
    assert ctl(host, "plan")[0] == "nothing would change\n"
    scenario.configure(host, TWO_PATHS)
    text, _ = ctl(host, "plan")
    assert f"+ tcp:198.51.100.1:4420:{nqn(1)}: connected" in text
    assert f"- tcp:192.0.2.1:4420:{DISCOVERY}: not connected any more" in text
    before = scenario.controllers(host)
    host.run("systemctl reload discoverd.service", timeout=GENEROUS)
    assert before.items() <= scenario.controllers(host).items()


def test_monitor(host: Machine, allow_journal: object) -> None:
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    scenario.start(host)
    scenario.wait_live(host, 2)
    host.run("systemd-run --quiet --unit=lab-monitor --collect sh -c 'exec discoverctl monitor --json >/run/monitor'")
    host.wait_until("systemctl is-active lab-monitor", what="it watches")
    ctl(host, f"restart {nqn(1)}")
    host.wait_until('grep -q \'"state": "live"\' /run/monitor', what="it has told of it")
    events = [json.loads(line) for line in host.read("/run/monitor").decode().splitlines()]
    host.run("systemctl stop lab-monitor")
    assert {one["controller"] for one in events} == {unit_name(1).removeprefix("nvme-ctrl@").removesuffix(".service")}


def test_log_level_at_run_time(host: Machine) -> None:
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    scenario.start(host)
    scenario.wait_live(host, 2)
    quiet = "journalctl -u discoverd.service -o cat --since=-1s | grep -c 'keeping ' || true"
    ctl(host, "log debug")
    host.run("systemctl reload discoverd.service && systemctl restart discoverd.service", timeout=GENEROUS)
    host.wait_until("journalctl -u discoverd.service -o cat -b | grep -q '^keeping '", what="it says why it keeps them")
    ctl(host, "log default")
    print(host.run(quiet).stdout)


def test_message_ids(host: Machine, allow_journal: object) -> None:
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    scenario.start(host, TWO_PATHS)
    host.wait_until(f"journalctl -b -o cat MESSAGE_ID={CANNOT_CONNECT} | grep -q 198.51.100.1", what="it is told")
    # As the tools of a package do after its installation.
    host.run("journalctl --update-catalog", timeout=GENEROUS)
    shown = host.run(f"journalctl -b -x -n 1 -u '{unit_name(1, '198.51.100.1')}' MESSAGE_ID={CANNOT_CONNECT}").stdout
    assert "An attempt to connect" in shown
    # Those that a worker sends itself belong to its unit, with the fields of the unit.
    fields = json.loads(host.run(f"journalctl -b -o json -n 1 MESSAGE_ID={CANNOT_CONNECT}").stdout)
    assert fields["_SYSTEMD_UNIT"] == unit_name(1, "198.51.100.1")
    assert fields["NVME_SUBSYSNQN"] == nqn(1)


def test_what_an_ordinary_user_sees_and_may_not_do(host: Machine) -> None:
    secret = make_key()
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    scenario.start(host, scenario.ONE_DISCOVERY_CONTROLLER + f"[Subsystem]\nnqn = {nqn(1)}\nkxchap-secret = {secret}\n")
    scenario.wait_live(host, 2)
    for verb in ("list", "status", f"why {nqn(1)}", "status nvme0", f"log-page {DISCOVERY}", "metrics", "wait"):
        shown = host.run(f"{NOBODY} discoverctl {verb}")
        assert shown.stderr == ""
    assert "live" in host.run(f"{NOBODY} discoverctl list").stdout
    ended = host.run(f"{NOBODY} discoverctl doctor", check=False)
    assert "only root can tell whether the configuration is sound" in ended.stdout
    for verb in (f"stop {nqn(1)}", f"restart {nqn(1)}", f"exclude {nqn(1)}", "disconnect nvme0", "plan", "log debug"):
        ended = host.run(f"{NOBODY} discoverctl {verb}", check=False)
        assert (ended.returncode, "Traceback" in ended.stderr) == (NOT_PERMITTED, False), verb
    assert len(scenario.live(host)) == 2
    key = secret.split(":")[2]
    assert host.run(f"{NOBODY} grep -rl '{key}' /run /etc/nvme 2>/dev/null || true").stdout == ""
    assert host.run(f"grep -rl '{key}' /run/discoverd || true").stdout.endswith("/spec\n")


def test_identity_is_made_before_the_first_start(host: Machine) -> None:
    host.run("rm /etc/nvme/hostnqn /etc/nvme/hostid")
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    scenario.start(host)
    scenario.wait_live(host, 2)
    made = host.read("/etc/nvme/hostnqn").decode().strip()
    assert re.fullmatch(r"nqn\.2014-08\.org\.nvmexpress:uuid:[0-9a-f-]{36}", made)
    assert made.endswith(host.read("/etc/nvme/hostid").decode().strip())
    assert made in ctl(host, "identity show")[0]
    host.run("systemctl start discoverd-identity.service")
    assert host.read("/etc/nvme/hostnqn").decode().strip() == made


def test_boot_waits_for_a_path_to_each_subsystem(host: Machine) -> None:
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    scenario.start(host)
    host.run("systemctl start discoverd-wait-online.service", timeout=GENEROUS)
    assert nqn(1) in scenario.live(host)
    assert host.run("systemctl show -P Before discoverd-wait-online.service").stdout.split().count("remote-fs.target")


def test_metrics_for_node_exporter(host: Machine) -> None:
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    scenario.start(host)
    scenario.wait_live(host, 2)
    host.run(f"mkdir -p {PROM} && systemctl start discoverd-metrics.timer")
    host.wait_until(f"test -s {PROM}/discoverd.prom", what="they are written")
    text = host.read(f"{PROM}/discoverd.prom").decode()
    assert text.count("discoverd_controller_live{") == 2
    assert "discoverd_configuration_valid 1\n" in text
    assert host.run(f"stat -c %a {PROM}/discoverd.prom").stdout == "644\n"


def test_completion_in_the_shell(host: Machine) -> None:
    host.run("lab-target up --subsystems 1 --ports 192.0.2.1:4420")
    scenario.start(host)
    scenario.wait_live(host, 2)
    script = (
        "source /usr/share/bash-completion/completions/discoverctl\n"
        "COMP_WORDBREAKS=:\n"
        "COMP_LINE='discoverctl why tcp:192.0.2.1:4420:nqn.2024' COMP_POINT=${#COMP_LINE}\n"
        "_discoverctl\necho ${COMPREPLY[@]}\n"
    )
    host.put("/run/complete", script)
    for command in ("bash --norc /run/complete", f"{NOBODY} bash --norc /run/complete"):
        assert host.run(command).stdout == f"{nqn(1)}\n"
