# SPDX-License-Identifier: Apache-2.0
"""discoverctl plan: what another configuration would change, from what runs now."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from discoverd import state
from discoverd.cli import plan as command
from discoverd.cli import plan_file
from discoverd.cli.exits import CliError, Exit
from discoverd.cli.unit import Unit
from discoverd.config import identity
from discoverd.config.files import read_files
from discoverd.kernel import addresses
from discoverd.kernel.addresses import HostAddresses
from discoverd.plan.candidate import CONFIGURATION, Candidate
from discoverd.plan.facts import Action, Decision
from discoverd.tid import IO, TransportId, unit_name

from .dhchap_secrets import secret
from .fake_host import DC, DISCOVERY, FIRST, NQN, ONE, SECOND, SUBSYSTEM, TWO, Host, leave_log, quiet, spec_of, until
from .log_pages import entry
from .test_unmanaged import connect as by_hand

KEY, OTHER_KEY = secret("one"), secret("other")


class Units:
    """What discoverctl asks systemd here."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def controllers(self) -> list[Unit]:
        units = self._host.systemd.units.items()
        return [Unit(unit_name(name), one.load, one.active, "running", one.job, "/x") for name, one in units]


@pytest.fixture
def etc(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for another configuration than the one in force."""
    monkeypatch.setattr(plan_file, "PATH", str(host.root / "run/plan"))
    monkeypatch.setattr(command, "read_files", partial(read_files, runtime=host.root / "run/nvme-fabrics.conf.d"))
    monkeypatch.setattr(addresses, "read", HostAddresses)
    return tmp_path / "other"


def live(host: Host, configuration: str, *entries: bytes) -> None:
    """Have discoverd run with a configuration until all is live, and end."""
    host.configure(configuration)

    async def scenario() -> None:
        await until(lambda: "live" in host.status)
        if entries:
            leave_log(*entries)
        await quiet()

    host.play(scenario)


def planned(host: Host, etc: Path, text: str, **files: str) -> list[Any]:
    """Return the changes that another configuration would make."""
    shutil.rmtree(etc, ignore_errors=True)
    shutil.copytree(host.etc, etc)
    (etc / "nvme-fabrics.conf").write_text(text)
    for name, content in files.items():
        (etc / f"{name}.conf").write_text(content)
    return [(one.kind, one.controller, one.text) for one in changes(host, etc)]


def changes(host: Host, etc: Path) -> list[command.Change]:
    shown: list[command.Change] = []
    difference = command.difference

    def keep(*arguments: Any) -> list[command.Change]:
        shown.extend(difference(*arguments))
        return shown

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "difference", keep)
        command.show(etc, plan_file.read(), Units(host), json=False)  # type: ignore[arg-type]
    return shown


def test_same_configuration_changes_nothing(host: Host, etc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = DISCOVERY + FIRST
    live(host, text, entry(NQN.format(7)))
    assert planned(host, etc, text) == []
    assert capsys.readouterr().out == "nothing would change\n"
    # Neither do other lines that say the same.
    assert planned(host, etc, FIRST + "\n# remark\n" + DISCOVERY) == []


def test_what_is_added_and_taken_out(host: Host, etc: Path) -> None:
    live(host, FIRST)
    found = planned(host, etc, SECOND)
    assert found == [
        ("+", TWO, f"connected: it is configured at {etc}/nvme-fabrics.conf:3"),
        ("-", ONE, f"not connected any more: it is no longer configured at {host.etc}/nvme-fabrics.conf:3;"
         " what runs is left as it is; what is connected stays"),
    ]  # fmt: skip


def test_what_is_asked_for_and_was_stopped_is_not_said_to_be_connected() -> None:
    tid = TransportId.make(IO, "tcp", "192.0.2.1", "4420", NQN.format(1))
    wanted = Candidate(tid, IO, "configured", CONFIGURATION, ())
    decision = Decision(ONE, Action.KEEP_STOPPED, "configured, but an administrator stopped its unit", wanted)
    (change,) = command.difference({}, {}, {ONE: decision})
    assert change.text == "asked for, and kept stopped: it is configured, but an administrator stopped its unit"
    assert command._summary([change]).startswith("0 connected, 1 asked for and kept stopped, ")


def test_what_is_excluded(host: Host, etc: Path) -> None:
    live(host, FIRST)
    ((kind, name, text),) = planned(host, etc, FIRST, exclusions="[exclusions]\nexclusion = traddr=192.0.2.1\n")
    assert (kind, name) == ("-", ONE)
    assert f"excluded by {etc}/exclusions.conf:2; what is connected stays" in text


def test_options_that_change(host: Host, etc: Path) -> None:
    live(host, FIRST + f"kxchap-secret = {KEY}\n")
    ((kind, name, text),) = planned(host, etc, FIRST + f"kxchap-secret = {OTHER_KEY}\nctrl-loss-tmo = 30\n")
    assert (kind, name) == ("~", ONE)
    assert text == "from its next connect on: dhchap_secret: another one, ctrl_loss_tmo: none becomes 30"


def test_a_discovery_controller_that_is_taken_out_takes_nothing_with_it(host: Host, etc: Path) -> None:
    live(host, DISCOVERY + FIRST, entry(NQN.format(7)))
    listed = f"tcp:192.0.2.1:4420:{NQN.format(7)}"
    assert listed in host.systemd.started
    found = {name: (kind, text) for kind, name, text in planned(host, etc, FIRST)}
    assert found.keys() <= {DC, listed}
    assert found[DC][0] == "-"
    assert all("stays" in text for _, text in found.values())


def test_reload_that_disconnects_what_was_withdrawn_before_is_told(host: Host, etc: Path) -> None:
    host.set("[Global]\ndisconnect-scope = none\n")
    host.configure(DISCOVERY)
    listed = f"tcp:192.0.2.1:4420:{NQN.format(7)}"

    async def scenario() -> None:
        await until(lambda: "live" in host.status)
        leave_log(entry(NQN.format(7)), entry(NQN.format(8)))
        await until(lambda: "3 live" in host.status)
        leave_log(entry(NQN.format(8)), generation=2)
        await until(lambda: bool(spec_of(listed).withdrawn))
        await quiet()

    host.play(scenario)
    assert planned(host, etc, DISCOVERY) == []
    ((kind, name, text),) = planned(host, etc, DISCOVERY, discoverd="[Global]\ndisconnect-scope = ours\n")
    assert (kind, name) == ("-", listed)
    assert text.startswith("may be disconnected: it is no longer listed in the log page of ")
    assert text.endswith("it is disconnected unless it is in use")


def test_scope_all_lists_what_others_connected(host: Host, etc: Path) -> None:
    live(host, DISCOVERY)
    by_hand(host)
    assert planned(host, etc, DISCOVERY) == []
    wide = "[Global]\ndisconnect-scope = all\n"
    text = "may be disconnected, once no log page lists it: it is connected by others"
    assert planned(host, etc, DISCOVERY, discoverd=wide) == [("-", TWO, text)]
    excluded = "[exclusions]\nexclusion = traddr=192.0.2.1\n"
    assert TWO not in [name for _, name, _ in planned(host, etc, DISCOVERY, discoverd=wide, exclusions=excluded)]


def test_errors_are_told_and_fail(host: Host, etc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    live(host, FIRST)
    shutil.copytree(host.etc, etc)
    (etc / "nvme-fabrics.conf").write_text("[Subsystem]\ncontroller = transport=tcp\n")
    units: Any = Units(host)
    assert command.show(etc, plan_file.read(), units, json=True) is Exit.FAILED
    output = capsys.readouterr()
    assert json.loads(output.out)["complaints"]
    assert "discoverd keeps the configuration that is in force" in output.err


def test_line_without_effect_by_which_a_path_is_lost_is_an_error_as_in_a_reload(host: Host, etc: Path) -> None:
    live(host, FIRST)
    (host.etc / "nvme-fabrics.conf").write_text(FIRST.replace("controller =", "controler ="))
    draft = command.read(host.etc)
    assert draft.refusing == draft.complaints
    assert [one.severity for one in draft.complaints] == ["error"]
    assert "controler" in draft.complaints[0].message


def test_draft_elsewhere_is_compared_with_what_is_in_force(
    host: Host, etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "DIRECTORY", host.etc)
    live(host, FIRST)
    shutil.copytree(host.etc, etc)
    for name in ("hostnqn", "hostid"):
        (etc / name).unlink()
    draft = command.read(etc)
    assert (draft.complaints, draft.refusing, draft.basis.host.hostnqn) == ((), (), "nqn.2024-08.com.example:host")
    (etc / "nvme-fabrics.conf").write_text(FIRST.replace("controller =", "controler ="))
    (mistake,) = command.read(etc).refusing
    assert (mistake.path, mistake.line) == (str(etc / "nvme-fabrics.conf"), 3)


def test_faulty_exclusion_is_no_reason_to_keep_what_is_in_force(
    host: Host, etc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    live(host, FIRST)
    shutil.copytree(host.etc, etc)
    (etc / "exclusions.conf").write_text("[exclusions]\nexclusion = nonsense\n")
    units: Any = Units(host)
    assert command.show(etc, plan_file.read(), units, json=False) is Exit.FAILED
    output = capsys.readouterr().err
    assert f"{etc}/exclusions.conf:2" in output
    assert "excludes nothing, and all others count" in output
    assert "keeps the configuration" not in output


def test_host_without_an_nqn_can_be_given_another_configuration(
    host: Host, etc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (host.etc / "hostnqn").unlink()
    host.configure(FIRST)

    async def scenario() -> None:
        await until(lambda: "nvme gen-hostnqn" in host.status)
        await quiet()

    host.play(scenario)
    planned(host, etc, FIRST + SECOND)
    assert "keeps the configuration" not in capsys.readouterr().err


def test_without_a_plan_there_is_nothing_to_compare_with(etc: Path) -> None:
    with pytest.raises(CliError, match="systemctl start discoverd"):
        command.show(etc, plan_file.read(), None, json=False)  # type: ignore[arg-type]


def test_nothing_is_written(host: Host, etc: Path) -> None:
    live(host, FIRST)
    before = {path: path.read_bytes() for path in Path(state.ROOT).rglob("*") if path.is_file()}
    planned(host, etc, SECOND + SUBSYSTEM.format(NQN.format(9)).replace("192.0.2.1", "192.0.2.9"))
    assert {path: path.read_bytes() for path in Path(state.ROOT).rglob("*") if path.is_file()} == before
