# SPDX-License-Identifier: Apache-2.0
"""discoverctl doctor: each check on a host where nothing is wrong, and on one where that one thing is."""

import json
import os
import posix
import re
import stat
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from discoverd import state, store
from discoverd.cli import doctor, plan_file
from discoverd.cli.checks import code, configuration, connections, identity, nvme_cli_files, tables
from discoverd.cli.checks.in_use import mount_unit
from discoverd.config import record
from discoverd.config.fabrics import load_fabrics
from discoverd.config.files import Files, read_files
from discoverd.config.identity import load_host_identity
from discoverd.kernel import block, fabrics, mounts
from discoverd.nvme_cli import unserved
from discoverd.tid import DISCOVERY_NQN

from .fake_ctl import Desk, Unit, install, instance

UUID = "0a1c4f2e-5d0b-4c6e-9a53-6f1d2b7c8e90"
HOSTNQN = f"nqn.2014-08.org.nvmexpress:uuid:{UUID}"
STAND_BACK = "/usr/lib/systemd/system/nvmf-autoconnect.service.d/50-discoverd.conf"
# Device numbers of made-up block devices, and the transports of the namespace under each.
TRANSPORTS = {"259:1": "tcp", "259:2": "fc", "259:3": "pcie", "8:1": ""}
BY_THE_FILES = [
    "the configuration is sound",
    "the host's identity is its own",
    "nvme-cli's files ask for nothing more",
]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    made = Desk(tmp_path, capsys)
    install(made, monkeypatch)
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "hostnqn").write_text(HOSTNQN + "\n")
    (etc / "hostid").write_text(UUID + "\n")
    made.bus.units["discoverd-mounts.service"] = Unit()
    for module in (identity, nvme_cli_files):
        monkeypatch.setattr(module, "load_host_identity", partial(load_host_identity, etc))
        monkeypatch.setattr(module, "load_fabrics", partial(load_fabrics, etc / "nvme-fabrics.conf"))
    monkeypatch.setattr(unserved, "look", partial(unserved.look, directory=etc))
    monkeypatch.setattr(unserved, "DIRECTORY", etc)
    for module in (configuration, doctor):
        monkeypatch.setattr(module, "read_files", partial(read_files, etc, etc / "runtime"))
    monkeypatch.setattr(record, "PATH", str(tmp_path / "last-good"))
    monkeypatch.setattr(tables, "FSTAB", str(tmp_path / "fstab"))
    monkeypatch.setattr(tables, "CRYPTTAB", str(tmp_path / "crypttab"))
    monkeypatch.setattr(tables, "DISKS", str(tmp_path / "disk"))
    monkeypatch.setattr(state, "WAKE_SOCKET", str(tmp_path / "wake"))
    monkeypatch.setattr(fabrics, "DEVICE", str(tmp_path / "nvme-fabrics"))
    monkeypatch.setattr(fabrics, "ABILITIES", str(tmp_path / "abilities"))
    monkeypatch.setattr(mounts, "system_targets", lambda: {"/", "/usr"})
    monkeypatch.setattr(mounts, "system_numbers", set)
    monkeypatch.setattr(mounts, "swaps", list)
    monkeypatch.setattr(mounts, "table", lambda _: b"")
    monkeypatch.setattr(block, "below", lambda number: {number} if TRANSPORTS.get(number) else set())
    monkeypatch.setattr(block, "transports", lambda number: {TRANSPORTS[number]})
    return made


@pytest.fixture
def disks(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Block devices: path to device number."""
    paths: dict[str, str] = {}
    real = os.stat

    def made_up(path: str, **options: object) -> object:
        if path in paths:
            major, minor = map(int, paths[path].split(":"))
            return SimpleNamespace(st_mode=stat.S_IFBLK, st_rdev=os.makedev(major, minor))
        return real(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", made_up)
    return paths


def findings(desk: Desk, status: int) -> list[tuple[str, str, str]]:
    ended, output, errors = desk.run("doctor", "--json")
    assert (ended, errors) == (status, "")
    checks = json.loads(output)["checks"]
    found = [one for check in checks for one in check["findings"]]
    assert all(check["ok"] == (not check["findings"]) for check in checks)
    return [(one["severity"], one["text"], one["remedy"]) for one in found]


def test_a_host_in_good_health(desk: Desk) -> None:
    desk.controller(1, "nvme0")
    assert findings(desk, 0) == []
    status, output, _ = desk.run("doctor")
    assert status == 0
    assert len(output.splitlines()) == 20
    assert all(line.startswith("ok ") for line in output.splitlines())


def test_how_it_is_said(desk: Desk) -> None:
    desk.bus.units["stafd.service"] = Unit()
    status, output, _ = desk.run("doctor")
    assert status == 1
    said = output.splitlines()
    place = next(
        number for number, line in enumerate(said) if line.startswith("problem  stafd.service (nvme-stas) runs")
    )
    assert said[place + 1] == "         to do: use one of the two; for discoverd: systemctl disable --now stafd.service"


@pytest.mark.parametrize("name", ["discoverd.service", "discoverd-mounts.service"])
def test_a_service_that_does_not_run(desk: Desk, name: str) -> None:
    desk.bus.units[name].active = "failed"
    ((severity, text, remedy),) = findings(desk, 1)
    assert (severity, text.split()[0], remedy.split()[-1]) == ("problem", name, name)


@pytest.mark.parametrize(("state", "status"), [("static", 1), ("masked", 0)])
def test_a_template_file(desk: Desk, state: str, status: int) -> None:
    desk.bus.units["nvme-ctrl@.service"] = Unit("inactive", file_state=state)
    assert "nvme-ctrl@.service" in findings(desk, status)[0][1]


def test_units_that_failed(desk: Desk) -> None:
    desk.controller(1, "nvme0", unit=Unit("failed", "in use by /data"), report="refused")
    ((severity, text, remedy),) = findings(desk, 1)
    assert severity == "problem"
    assert text == f"{instance(1)} was stopped while in use: it is still connected, and nobody looks after it"
    assert remedy.startswith(f"discoverctl start {instance(1)}")


@pytest.fixture
def user(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """An ordinary user, who may read no file that only root may."""
    real, real_access = os.open, os.access

    def opened(path: str, flags: int, mode: int = 0o777, **more: int) -> int:
        if not flags & os.O_CREAT and Path(path).is_file() and not os.stat(path).st_mode & 0o004:
            raise PermissionError(13, "Permission denied", path)
        return real(path, flags, mode, **more)

    for module in (os, posix):
        monkeypatch.setattr(module, "open", opened)
    monkeypatch.setattr(
        os, "access", lambda path, mode: real_access(path, mode) and bool(os.stat(path).st_mode & 0o004)
    )
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return desk


@pytest.mark.parametrize(
    ("path", "titles"),
    [
        ("etc/nvme-fabrics.conf", BY_THE_FILES),
        ("etc/discoverd.conf", BY_THE_FILES),
        ("etc/runtime/1.conf", BY_THE_FILES),
        ("etc/hostid", BY_THE_FILES),
        ("etc/config.json", BY_THE_FILES[-1:]),
        ("etc/discovery.conf", BY_THE_FILES[-1:]),
    ],
)
def test_what_only_root_may_read_only_root_can_tell(user: Desk, tmp_path: Path, path: str, titles: list[str]) -> None:
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).touch()
    (tmp_path / path).chmod(0o600)
    found = findings(user, 0)
    assert [text.removeprefix("only root can tell whether ") for _, text, _ in found] == titles
    assert {(severity, remedy) for severity, _, remedy in found} == {("hint", "run it as root: discoverctl doctor")}


def test_options_that_the_kernel_does_not_know_are_in_specifications_of_root(user: Desk, tmp_path: Path) -> None:
    name = user.controller(1, "nvme0")
    Path(state.directory(name), "spec").chmod(0o600)
    assert [text for _, text, _ in findings(user, 0)] == [
        "only root can tell whether the kernel knows all options that are asked for"
    ]


def test_without_a_plan_what_goes_by_it_is_not_checked(desk: Desk) -> None:
    Path(plan_file.PATH).write_text("{")
    status, output, _ = desk.run_as_it_is("doctor")
    assert status == 1
    assert "problem  " + plan_file.PATH + " is truncated or makes no sense; what is refused" in output
    assert "to do: to have it written again: systemctl restart discoverd" in output
    for title in ("refused", "what is wanted is connected", "last path"):
        assert not [line for line in output.splitlines() if line.startswith("ok ") and title in line]


def test_configuration(desk: Desk, tmp_path: Path) -> None:
    conf = tmp_path / "etc" / "nvme-fabrics.conf"
    key = "DHHC-1:00:ia6zGodOr4SEG0Zzaw398rpY0wqipUWj4jWjUh4HWUz6aQ2n:"
    conf.write_text(f"[Host]\nkxchap-secret = {key}\n")
    conf.chmod(0o644)
    (tmp_path / "etc" / "discoverd.conf").write_text("[Global]\nweather = fine\n")
    conf.chmod(0o644)
    hints = findings(desk, 1)
    assert [severity for severity, *_ in hints] == ["problem", "hint"]
    assert "others than root can read it" in hints[0][1]
    assert all(remedy.endswith("systemctl reload discoverd") for *_, remedy in hints)


def test_file_that_counts_as_it_was(desk: Desk, tmp_path: Path) -> None:
    conf = tmp_path / "etc" / "nvme-fabrics.conf"
    conf.write_text("[Discovery Controller]\ncontroller = transport=tcp;traddr=192.0.2.1\n")
    conf.chmod(0o600)
    record.write(record.Record(Files(fabrics=read_files(tmp_path / "etc").fabrics)))
    conf.write_text("[Discovery Controller]\ncontroler = transport=tcp;traddr=192.0.2.1\n")
    mistake = f"{conf}:2:1: misspelt"
    desk.plan["kept"] = [{"file": str(conf), "since": "2026-11-21 14:05", "mistake": mistake}]
    said = findings(desk, 1)
    assert [severity for severity, *_ in said] == ["problem"] * 2
    assert said[0][1].startswith(f'{conf}:2: the unknown key "controler" is ignored, and the path to tcp 192.0.2.1 in ')
    assert said[1][1].startswith(f"{conf} counts as it was on 2026-11-21 14:05, because of a mistake ")
    assert said[1][1].endswith(mistake)


def test_files_of_nvme_cli(desk: Desk, tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    (etc / "discovery.conf").write_text("# ours\n-t tcp -a 192.0.2.1\n-t tcp -a 192.0.2.2\n")
    first, second = findings(desk, 1)
    assert first[:2] == (
        "problem",
        f"{etc}/discovery.conf:2: nobody connects the discovery controller at tcp 192.0.2.1: nvme-cli's units stand "
        "back while discoverd runs",
    )
    assert "discoverctl import-nvme-cli" in first[2]
    assert "192.0.2.2" in second[1]
    conf = etc / "nvme-fabrics.conf"
    paths = "".join(f"controller = transport=tcp;traddr=192.0.2.{number}\n" for number in (1, 2))
    conf.write_text(f"[Discovery Controller]\n{paths}")
    assert findings(desk, 0) == []


def test_no_identity(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "etc" / "hostnqn").unlink()
    (tmp_path / "etc" / "hostid").unlink()
    ((severity, text, remedy),) = findings(desk, 1)
    assert (severity, "does not exist" in text) == ("problem", True)
    assert "nvme gen-hostnqn" in remedy


def test_an_identity_that_many_hosts_have(desk: Desk, tmp_path: Path) -> None:
    shared = "03000200-0400-0500-0006-000700080009"
    (tmp_path / "etc" / "hostnqn").write_text(f"nqn.2014-08.org.nvmexpress:uuid:{shared}\n")
    (tmp_path / "etc" / "hostid").write_text(f"{shared}\n")
    assert shared in findings(desk, 1)[0][1]


def test_a_cloned_host(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "etc" / "hostid").write_text("11111111-2222-3333-4444-555555555555\n")
    ((severity, _, remedy),) = findings(desk, 0)
    assert (severity, remedy) == ("hint", f"if no target counts on it: echo {UUID} > /etc/nvme/hostid")


def test_connected_as_somebody_else(desk: Desk, tmp_path: Path) -> None:
    desk.controller(1, "nvme0")
    desk.controller(2, "nvme1")
    desk.set("nvme0", "hostnqn", HOSTNQN)
    desk.set("nvme1", "hostnqn", "nqn.2024-08.com.example:other")
    ((severity, text, _),) = findings(desk, 0)
    assert (severity, text.split()[0]) == ("hint", "nvme1")
    conf = tmp_path / "etc" / "nvme-fabrics.conf.d"
    conf.mkdir()
    (conf / "other.conf").write_text(f"[Host]\nhostnqn = nqn.2024-08.com.example:other\nhostid = {UUID[:-1]}1\n")
    (conf / "other.conf").chmod(0o600)
    assert findings(desk, 0) == []


def test_autoconnect(desk: Desk) -> None:
    legacy = Unit("inactive", file_state="enabled", lists={"DropInPaths": [STAND_BACK]})
    desk.bus.units["nvmf-autoconnect.service"] = legacy
    assert findings(desk, 0) == []
    legacy.lists.clear()
    ((severity, text, remedy),) = findings(desk, 1)
    assert (severity, text.split()[0]) == ("problem", "nvmf-autoconnect.service")
    assert remedy.endswith("systemctl mask nvmf-autoconnect.service")
    legacy.load = "masked"
    assert findings(desk, 0) == []


def test_autoconnect_while_discoverd_is_away(desk: Desk) -> None:
    lists = {"DropInPaths": [STAND_BACK]}
    desk.bus.units["nvmf-autoconnect.service"] = Unit("inactive", file_state="enabled", lists=lists)
    desk.bus.units["discoverd.service"].active = "inactive"
    _, output, _ = desk.run("doctor")
    assert "hint     nvmf-autoconnect.service is enabled" in output


def test_each_unit_that_is_to_stand_back_is_looked_at(desk: Desk) -> None:
    meson = (Path(__file__).parents[2] / "meson.build").read_text()
    units = re.findall(r"'([^']+)'", meson.split("legacy_units = [")[1].split("]")[0])
    for name in units:
        # An instance stands for the template.
        desk.bus.units[name.replace("@.", "@discoverctl.")] = Unit("inactive")
    found = [text.split()[0] for _, text, _ in findings(desk, 1) if "connects on its own" in text]
    assert sorted(found) == sorted(units)


@pytest.mark.parametrize(
    ("what", "path"),
    [
        ("/dev/nvme0n1", "/dev/nvme0n1"),
        ("UUID=ab-cd", "{}/disk/by-uuid/ab-cd"),
        ("LABEL=my\\040data", "{}/disk/by-label/my\\x20data"),
        ('PARTLABEL="a/b"', "{}/disk/by-partlabel/a\\x2fb"),
        ("PARTUUID=1", "{}/disk/by-partuuid/1"),
        ("LABEL=größe", "{}/disk/by-label/größe"),
    ],
)
def test_fstab(desk: Desk, tmp_path: Path, disks: dict[str, str], what: str, path: str) -> None:
    disks[path.format(tmp_path)] = "259:1"
    fstab = tmp_path / "fstab"
    fstab.write_text(f"# a comment\n\n{what} /data ext4 defaults 0 0\n")
    (problem, hint) = findings(desk, 1)
    assert problem[:2] == (
        "problem",
        f"{fstab}:3: /data is on NVMe over a network, and its options lack _netdev, so it is ordered as a local disk",
    )
    assert (hint[0], "nofail" in hint[1]) == ("hint", True)
    for options in ("_netdev,nofail", "defaults,noauto,_netdev"):
        fstab.write_text(f"{what} /data ext4 {options} 0 0\n")
        assert findings(desk, 0) == []


def test_fstab_of_what_is_not_ours_or_not_there(desk: Desk, tmp_path: Path, disks: dict[str, str]) -> None:
    disks.update({"/dev/pcie": "259:3", "/dev/sda1": "8:1", "/dev/fc": "259:2", "/dev/tcp": "259:1"})
    fstab = tmp_path / "fstab"
    fstab.write_text(
        "/dev/pcie /a ext4\n/dev/sda1 /b ext4 defaults\nUUID=gone /c ext4 defaults\ntmpfs /tmp tmpfs\n"
        "/dev/tcp / ext4 defaults\n/dev/tcp none swap sw\nserver:/x /n nfs defaults\nbroken\n/etc /e none bind\n"
    )
    assert findings(desk, 0) == []
    # Mounts on Fibre Channel need no network.
    fstab.write_text("/dev/fc /f ext4 defaults\n")
    ((severity, text, _),) = findings(desk, 0)
    assert (severity, "nofail" in text) == ("hint", True)


def test_crypttab(desk: Desk, tmp_path: Path, disks: dict[str, str]) -> None:
    disks["/dev/nvme0n1"] = "259:1"
    (tmp_path / "crypttab").write_text("vault /dev/nvme0n1\n")
    (problem, _) = findings(desk, 1)
    assert problem[1].startswith(f"{tmp_path}/crypttab:1: vault is on NVMe over a network")
    (tmp_path / "crypttab").write_text("vault /dev/nvme0n1 none _netdev,nofail\n")
    assert findings(desk, 0) == []


def test_a_table_that_cannot_be_read(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "fstab").mkdir()
    assert findings(desk, 1)[0][1].startswith("this cannot be checked: ")


@pytest.mark.parametrize(
    ("after", "before", "wrong"),
    [
        (["remote-fs-pre.target", "network.target"], ["remote-fs.target"], False),
        (["local-fs-pre.target"], ["local-fs.target"], True),
        (["remote-fs-pre.target"], ["local-fs.target"], True),
        ([], [], True),
    ],
)
def test_the_order_of_a_mount(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, after: list[str], before: list[str], wrong: bool
) -> None:
    table = b"30 1 259:1 / /srv/my\\040data rw - ext4 /dev/nvme0n1 rw\n31 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
    monkeypatch.setattr(mounts, "table", lambda _: table)
    desk.bus.units["srv-my\\x20data.mount"] = Unit(lists={"After": after, "Before": before})
    if not wrong:
        assert findings(desk, 0) == []
        return
    ((severity, text, remedy),) = findings(desk, 1)
    assert (severity, text.startswith("/srv/my data is on NVMe over a network")) == ("problem", True)
    assert remedy.endswith("umount '/srv/my data'")


def test_swap(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "swaps", lambda: [("/dev/sda2", "8:1"), ("/dev/nvme0n1", "259:1")])
    ((severity, _, remedy),) = findings(desk, 0)
    assert (severity, remedy.split()[-1]) == ("hint", "/dev/nvme0n1")


@pytest.mark.parametrize(
    ("target", "unit"),
    [
        ("/", "-.mount"),
        ("/srv/data", "srv-data.mount"),
        ("/a-b//c/", "a\\x2db-c.mount"),
        ("/.x/.y", "\\x2ex-.y.mount"),
        ("/ü:_", "\\xc3\\xbc:_.mount"),
    ],
)
def test_the_unit_of_a_mount_point(target: str, unit: str) -> None:
    """As systemd-escape --path --suffix=mount has it."""
    assert mount_unit(target) == unit


# What is wanted, and what is there --------------------------------------------------------------------------


def test_refused(desk: Desk) -> None:
    desk.plan["refusals"] = [
        {"what": "tcp 192.0.2.9", "source": "x.conf:3", "reason": "TLS is not supported yet"},
        {"what": "tcp 192.0.2.8", "source": "mDNS", "reason": "nonsense", "trust": "announced"},
        {"what": "rdma 192.0.2.7", "source": "a log page", "reason": "no device", "expected": "yes"},
    ]
    assert findings(desk, 1) == [
        (
            "problem",
            "tcp 192.0.2.9 (x.conf:3) is not connected: TLS is not supported yet",
            "mend what refuses it, then: systemctl reload discoverd",
        ),
        (
            "hint",
            "tcp 192.0.2.8 (mDNS) is not connected: nonsense",
            "mend what refuses it, then: systemctl reload discoverd",
        ),
    ]
    desk.plan["refusals"] = [{"what": f"tcp {one}", "source": "page", "reason": "bad"} for one in range(30)]
    said = findings(desk, 1)
    assert len(said) == 21
    assert said[-1][1:] == ("10 more are refused", "see them: discoverctl status")


def test_refused_in_a_file_is_said_once(desk: Desk, tmp_path: Path) -> None:
    conf = tmp_path / "etc" / "nvme-fabrics.conf"
    conf.write_text("[Discovery Controller]\ncontroller = transport=tpc;traddr=192.0.2.1\n")
    conf.chmod(0o600)
    desk.plan["refusals"] = [{"what": "tpc 192.0.2.1", "source": f"{conf}:2", "reason": "the transport is unknown"}]
    ((severity, text, _),) = findings(desk, 1)
    assert (severity, text.endswith("is not connected: the transport is unknown")) == ("problem", True)


def waiting(
    desk: Desk, volume: int, attempt: int, age: float = 0, word: str = "waiting", address: str = "192.0.2.1"
) -> str:
    unit = Unit(status="waiting 8 s")
    name = desk.controller(volume, "", address=address, unit=unit, report=word)
    when = int(time.clock_gettime(time.CLOCK_BOOTTIME) - age)
    fields = [("state", word), ("status", "waiting"), ("attempt", str(attempt)), ("cause", "no answer")]
    (Path(state.directory(name)) / "report").write_bytes(
        state.encode(state.REPORT, [*fields, ("time", str(max(when, 0)))])
    )
    return name


def test_not_connected_for_minutes(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "clock_gettime", lambda _: 10_000.0)
    names = [waiting(desk, volume, 30) for volume in range(1, 6)]
    other = waiting(desk, 6, 0, age=300, word="reconnecting", address="192.0.2.2")
    waiting(desk, 7, 3)
    waiting(desk, 8, 0, age=60, word="connecting")
    array, one = findings(desk, 1)
    shown = f"{', '.join(names[:3])} and 2 more: not connected after 30 attempts: no answer"
    assert array == ("problem", shown, f"see what would help: discoverctl why {names[0]}")
    assert one[1] == f"{other}: not connected for 5 minutes: no answer"


def test_no_unit_for_minutes(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.planned(instance(1), "start", "configured at x.conf:3")
    assert findings(desk, 0) == []
    monkeypatch.setattr(connections, "_MINUTES", 0)
    text = f"{instance(1)}: not connected for 0 minutes: no unit was made for it"
    assert findings(desk, 1) == [("problem", text, f"see what would help: discoverctl why {instance(1)}")]


def test_not_connected_and_not_to_be(desk: Desk) -> None:
    waiting(desk, 1, 30)
    desk.plan["controllers"][0]["note"] = "no longer configured"
    assert findings(desk, 0) == []
    desk.plan["controllers"][0] |= {"note": "", "excluded_by": "/etc/nvme/exclusions.conf:3"}
    assert findings(desk, 0) == []
    desk.plan["controllers"][0] |= {"excluded_by": "", "trust": "announced"}
    assert [severity for severity, *_ in findings(desk, 0)] == ["hint"]


def test_one_path_left(desk: Desk) -> None:
    desk.controller(1, "nvme0")
    second = desk.controller(1, "nvme1", address="192.0.2.2")
    desk.controller(2, "nvme2")
    assert findings(desk, 0) == []
    desk.set("nvme1", "state", "connecting")
    ((severity, text, remedy),) = findings(desk, 1)
    assert (severity, remedy) == ("problem", f"see why: discoverctl why {second}")
    assert text == "nqn.2024-08.com.example:vol1 has one path left, nvme0: if that is lost, its I/O stops; 1 other down"
    desk.set("nvme0", "state", "connecting")
    assert findings(desk, 0) == []


def test_one_path_left_because_the_other_was_stopped(desk: Desk) -> None:
    desk.controller(1, "nvme0")
    name = desk.controller(1, "", address="192.0.2.2", action="keep stopped", unit=Unit("inactive"), report="stopped")
    ((severity, text, remedy),) = findings(desk, 0)
    assert (severity, text.endswith("1 other stopped"), remedy) == ("hint", True, f"discoverctl start {name}")


def test_discovery_controllers_are_no_paths_on_a_kernel_that_does_not_tell_which_they_are(desk: Desk) -> None:
    """Before 5.18 there is no cntrltype, and all of them may have the well-known NQN."""
    for number in (1, 2):
        name = desk.controller(1, f"nvme{number}", address=f"192.0.2.{number}")
        spec = state.Spec("discovery", [("nqn", DISCOVERY_NQN), ("transport", "tcp")])
        spec.options += [("traddr", f"192.0.2.{number}"), ("trsvcid", "4420")]
        (Path(state.directory(name)) / "spec").write_bytes(spec.encode())
        desk.set(f"nvme{number}", "subsysnqn", DISCOVERY_NQN)
    desk.set("nvme2", "state", "connecting")
    assert findings(desk, 0) == []


def test_a_foreign_wake_socket(desk: Desk, tmp_path: Path) -> None:
    wake = tmp_path / "wake"
    wake.touch()
    fields = [("inode", str(wake.stat().st_ino))]
    (tmp_path / "wake.inode").write_bytes(state.encode(store.WAKE, fields))
    assert findings(desk, 0) == []
    (tmp_path / "other").touch()
    (tmp_path / "other").rename(wake)
    ((severity, text, _),) = findings(desk, 1)
    assert (severity, f"the socket {wake} is another's, so discoverd" in text) == ("problem", True)
    wake.unlink()
    assert f"the socket {wake} is gone" in findings(desk, 1)[0][1]
    desk.bus.units["discoverd.service"].active = "inactive"
    assert "wake" not in desk.run("doctor")[1].replace("workers reach", "")


def test_code_from_before_an_installation(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.controller(1, "nvme0", unit=Unit(status="live nvme0", pid=os.getpid()))
    desk.controller(2, "nvme1", unit=Unit(status="live nvme1", pid=999_999_999))
    desk.bus.units["discoverd.service"].pid = os.getpid()
    package = tmp_path / "package"
    (package / "worker").mkdir(parents=True)
    file = package / "worker/loop.py"
    file.touch()
    monkeypatch.setattr(code, "PACKAGE", package)
    # This process was started before it.
    monkeypatch.setattr(code, "_TOLERANCE_SECONDS", 0.0)
    daemon, workers = findings(desk, 0)
    assert daemon == (
        "hint",
        "discoverd.service runs code from before the last installation",
        "systemctl restart discoverd.service",
    )
    assert workers[1] == "1 worker of 2 run code from before the last installation"
    assert workers[2].endswith(f"systemctl kill -s KILL nvme-ctrl@{instance(1)}.service")
    monkeypatch.setattr(code, "_TOLERANCE_SECONDS", 1e9)
    assert findings(desk, 0) == []


def test_option_that_the_kernel_does_not_know(desk: Desk, tmp_path: Path) -> None:
    name = desk.controller(1, "nvme0")
    (tmp_path / "nvme-fabrics").touch()
    known = ["nqn", "transport", "traddr", "trsvcid"]
    fields = [("module", str(fabrics.module())), *(("option", one) for one in known)]
    (tmp_path / "abilities").write_bytes(state.encode(fabrics.ABILITIES_KIND, fields))
    ((severity, text, remedy),) = findings(desk, 1)
    assert (severity, remedy) == ("problem", f"use a later kernel; see: discoverctl why {name}")
    assert text == ("this kernel does not know the option dhchap_secret, which 1 controller should have: not connected")
    fields.append(("option", "dhchap_secret"))
    (tmp_path / "abilities").write_bytes(state.encode(fabrics.ABILITIES_KIND, fields))
    assert findings(desk, 0) == []


# Owners that do not run -------------------------------------------------------------------------------------


@pytest.fixture
def theirs(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A controller that nvme-discoverd has taken over, and that our unit leaves alone."""
    monkeypatch.setattr(store, "HOLDERS", str(tmp_path / "holders"))
    desk.controller(1, "nvme0", owner="discoverd", report="foreign", status="left alone: nvme0 belongs to discoverd")
    desk.bus.units["nvme-discoverd.service"] = Unit("inactive")
    return desk


GONE = "nvme0 belongs to discoverd, and no daemon of nvme-cli's nvme-discoverd runs (nvme-discoverd.service)"


def test_owner_that_does_not_run(theirs: Desk) -> None:
    by_itself = "discoverd takes it back by itself, after 120 seconds at the latest"
    assert findings(theirs, 1) == [("problem", f"{GONE}: nobody looks after it", by_itself)]
    assert "Whether that tool still runs: discoverctl doctor" in theirs.run("why", "nvme0")[1]
    theirs.bus.units["nvme-discoverd.service"].active = "active"
    assert [text.split()[0] for _, text, _ in findings(theirs, 1)] == ["nvme-discoverd.service"]
    theirs.bus.units["nvme-discoverd.service"].active = "inactive"
    theirs.bus.units["discoverd.service"].active = "inactive"
    assert "to do: systemctl start discoverd, which takes back what it asks for\n" in theirs.run("doctor")[1]


def test_owner_that_does_not_run_and_whose_unit_would_disconnect(theirs: Desk, tmp_path: Path) -> None:
    holder = "nvme-discoverd-0123456789ab.service"
    (tmp_path / "holders/nvme0").mkdir(parents=True)
    (tmp_path / "holders/nvme0/unit").write_text(holder + "\n")
    theirs.bus.units[holder] = Unit(sub="exited")
    ((severity, text, remedy),) = findings(theirs, 1)
    assert severity == "problem"
    assert text == f"{GONE}, but {holder} disconnects it when that is stopped, at shutdown under what is mounted"
    assert remedy == (
        f"have it forget the controller, and stop it: rm -r {tmp_path}/holders/nvme0 && systemctl stop {holder}; "
        "then discoverd takes back what it asks for"
    )


def test_unit_of_another_controller_is_not_to_be_stopped(theirs: Desk, tmp_path: Path) -> None:
    holder = "nvme-discoverd-0123456789ab.service"
    (tmp_path / "holders/nvme7").mkdir(parents=True)
    (tmp_path / "holders/nvme7/unit").write_text(holder + "\n")
    theirs.bus.units[holder] = Unit(sub="exited")
    ((_, text, remedy),) = findings(theirs, 1)
    assert text.startswith(f"{GONE}, but one of its units disconnects it when that is stopped")
    assert "stop" not in remedy
    assert remedy.endswith(f"systemctl status {holder}")


def test_owner_that_systemd_does_not_have_may_run_elsewhere(desk: Desk) -> None:
    desk.kernel(1, "nvme0", owner="stas")
    ((severity, text, remedy),) = findings(desk, 0)
    assert (severity, text) == ("hint", "nvme0 belongs to stas, and systemd has no stafd.service or stacd.service")
    assert "rm -r " in remedy
    assert "/nvme0, and discoverd looks after it if it is asked for" in remedy


def test_owner_that_does_not_run_of_what_nobody_asks_for(desk: Desk) -> None:
    desk.kernel(1, "nvme0", owner="stas")
    desk.bus.units["stafd.service"] = Unit("inactive")
    ((_, text, remedy),) = findings(desk, 1)
    assert "no daemon of nvme-stas runs (stafd.service, stacd.service): nobody looks after it" in text
    assert remedy.endswith("nvme disconnect -d nvme0")
