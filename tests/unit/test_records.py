# SPDX-License-Identifier: Apache-2.0
"""Which controller in the kernel a worker takes for its own: by the registry, by its last report, by options."""

import errno
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discoverd import registry, state
from discoverd.kernel import controllers
from discoverd.plan.candidate import CONFIGURATION
from discoverd.worker import ownership
from discoverd.worker.ownership import Ownership, find

from .fake_kernel import Kernel, play, until

NQN = "nqn.2024-08.com.example:vol1"
HOST = "nqn.2024-08.com.example:host"
INSTANCE = f"tcp:192.0.2.1:4420:{NQN}::eth0"
UNIT = f"nvme-ctrl@{INSTANCE}.service"
OTHER = f"tcp:192.0.2.1:4420:{NQN}::eth1"
OTHER_UNIT = f"nvme-ctrl@{OTHER}.service"
TARGET = "traddr=192.0.2.1,trsvcid=4420"
OURS = TARGET + ",host_iface=eth0,src_addr=203.0.113.9"
# Neither name is that of an interface of the machine that runs the tests.
RENAMED = TARGET + ",host_iface=old0,src_addr=203.0.113.9"

OPTIONS = [
    ("nqn", NQN),
    ("transport", "tcp"),
    ("traddr", "192.0.2.1"),
    ("host_iface", "eth0"),
    ("trsvcid", "4420"),
    ("hostnqn", HOST),
]


def leave_report(instance: str, device: str, inode: int | None = None, owner: str = "", name: str = "live") -> None:
    """Leave the report that a worker wrote before it was killed, by default of the present controller."""
    inode = controllers.sysfs_inode(device) if inode is None else inode
    fields = [("state", name), ("device", device), ("kernel-instance", str(inode)), ("owner", owner)]
    folder = Path(state.directory(instance))
    folder.mkdir(parents=True, exist_ok=True)
    state.write(str(folder / "report"), state.encode(state.REPORT, fields))


def found() -> str:
    return find(INSTANCE, [dict(OPTIONS)])


def owned() -> tuple[str, str]:
    """Return what is taken, and who else has it."""
    device = found()
    if not device:
        return "", ""
    one = Ownership(INSTANCE)
    one.take(device, CONFIGURATION, found=True)
    return device, one.foreign


@pytest.fixture(autouse=True)
def known(kernel: Kernel) -> None:
    Path(state.directory(INSTANCE)).mkdir(parents=True)
    Path(state.directory(OTHER)).mkdir(parents=True)


# One controller -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [OURS, RENAMED, TARGET + ",host_iface=eth1", TARGET])
@pytest.mark.parametrize("hostnqn", [HOST, HOST + "-before"])
@pytest.mark.parametrize(("entry", "report"), [(True, True), (True, False), (False, True)])
def test_either_record_finds_it_whatever_the_hosts_side(
    kernel: Kernel, address: str, hostnqn: str, entry: bool, report: bool
) -> None:
    kernel.add("nvme3", address=address, hostnqn=hostnqn)
    if entry:
        registry.claim("nvme3", registry.OWNER, UNIT)
    if report:
        leave_report(INSTANCE, "nvme3")
    assert owned() == ("nvme3", "")


@pytest.mark.parametrize(("address", "there"), [(OURS, "nvme3"), (RENAMED, "")])
def test_no_record_goes_by_options(kernel: Kernel, address: str, there: str) -> None:
    kernel.add("nvme3", address=address, hostnqn=HOST)
    assert owned() == (there, "")


@pytest.mark.parametrize(
    "changes",
    [
        {"transport": "rdma"},
        {"subsysnqn": NQN + "2"},
        {"address": "traddr=192.0.2.2,trsvcid=4420"},
        {"address": "traddr=192.0.2.1,trsvcid=4421"},
        {"state": "deleting"},
        {"state": "dead"},
    ],
)
def test_record_of_another_target_or_of_one_that_goes_does_not_count(kernel: Kernel, changes: dict[str, str]) -> None:
    kernel.add("nvme3", **{"address": OURS, **changes})
    registry.claim("nvme3", registry.OWNER, UNIT)
    leave_report(INSTANCE, "nvme3")
    assert found() == ""


def test_reused_name_is_not_what_was_reported(kernel: Kernel) -> None:
    kernel.add("nvme3", address=RENAMED)
    leave_report(INSTANCE, "nvme3")
    kernel.remove("nvme3", event=False)
    kernel.add("nvme3", address=RENAMED)
    assert found() == ""


def test_entry_that_the_report_disproves_leaves_the_options(kernel: Kernel) -> None:
    kernel.add("nvme3", address=RENAMED)
    registry.claim("nvme3", registry.OWNER, UNIT)
    leave_report(INSTANCE, "nvme3")
    kernel.remove("nvme3", event=False)
    kernel.add("nvme3", address=RENAMED)
    assert found() == ""
    kernel.remove("nvme3", event=False)
    kernel.add("nvme3", address=OURS)
    assert owned() == ("nvme3", "")


def test_report_of_something_foreign_is_no_record(kernel: Kernel) -> None:
    kernel.add("nvme3", address=RENAMED)
    leave_report(INSTANCE, "nvme3", owner="stas", name="foreign")
    assert found() == ""


@pytest.mark.parametrize("data", [b"", b"discoverd-report 1\ndevice=nvme3\n", b"discoverd-report 1\nkernel-instance=x"])
def test_damaged_report_is_no_record(kernel: Kernel, data: bytes) -> None:
    kernel.add("nvme3", address=RENAMED)
    state.write(state.directory(INSTANCE) + "/report", data)
    assert found() == ""
    registry.claim("nvme3", registry.OWNER, UNIT)
    assert found() == "nvme3"


def test_report_does_not_overrule_another_tools_entry(kernel: Kernel) -> None:
    kernel.add("nvme3", address=RENAMED)
    leave_report(INSTANCE, "nvme3")
    registry.claim("nvme3", "stas", "")
    assert owned() == ("nvme3", "stas")


def test_unreadable_registry_leaves_it_alone(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(device: str, attribute: str) -> str | None:
        raise OSError(errno.EIO, f"Input/output error of {device}/{attribute}")

    kernel.add("nvme3", address=OURS)
    leave_report(INSTANCE, "nvme3")
    monkeypatch.setattr(registry, "retrieve", unreadable)
    device, foreign = owned()
    assert device == "nvme3"
    assert foreign.startswith("somebody")


# Several --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", [True, False])
def test_own_record_wins_over_a_better_fit(kernel: Kernel, entry: bool) -> None:
    kernel.add("nvme3", address=OURS)
    kernel.add("nvme4", address=RENAMED)
    if entry:
        registry.claim("nvme4", registry.OWNER, UNIT)
    else:
        leave_report(INSTANCE, "nvme4")
    assert owned() == ("nvme4", "")


def test_two_entries_go_by_the_report(kernel: Kernel) -> None:
    for device in ("nvme3", "nvme4"):
        kernel.add(device, address=OURS)
        registry.claim(device, registry.OWNER, UNIT)
    assert found() == "nvme3"
    leave_report(INSTANCE, "nvme4")
    assert found() == "nvme4"


def test_reported_one_wins_over_an_entry_elsewhere(kernel: Kernel) -> None:
    # A report has the inode; an entry may be of an earlier controller of its name.
    kernel.add("nvme3", address=OURS)
    registry.claim("nvme3", registry.OWNER, UNIT)
    kernel.add("nvme4", address=RENAMED)
    leave_report(INSTANCE, "nvme4")
    assert owned() == ("nvme4", "")


def test_nobodys_is_preferred_to_anothers(kernel: Kernel) -> None:
    kernel.add("nvme3", address=OURS)
    kernel.add("nvme10", address=OURS)
    registry.claim("nvme3", "stas", "")
    assert owned() == ("nvme10", "")


def test_source_that_is_optional_comes_after_one_that_fits(kernel: Kernel) -> None:
    with_source = dict([*OPTIONS, ("host_traddr", "203.0.113.9")])
    kernel.add("nvme3", address=TARGET + ",host_iface=eth0,src_addr=203.0.113.7")
    assert find(INSTANCE, [with_source]) == ""
    assert find(INSTANCE, [with_source, dict(OPTIONS)]) == "nvme3"
    kernel.add("nvme4", address=OURS)
    assert find(INSTANCE, [with_source, dict(OPTIONS)]) == "nvme4"


@pytest.mark.parametrize("by_report", [True, False])
def test_another_units_is_left_to_it(kernel: Kernel, by_report: bool) -> None:
    kernel.add("nvme3", address=OURS)
    if by_report:
        # Its entry was erased, and it makes another at its next look.
        leave_report(OTHER, "nvme3")
    else:
        registry.claim("nvme3", registry.OWNER, OTHER_UNIT)
    assert owned() == ("nvme3", OTHER_UNIT)


def test_controller_of_another_unit_is_ours_once_forgotten(kernel: Kernel) -> None:
    kernel.add("nvme3", address=OURS)
    leave_report(OTHER, "nvme3")
    one = Ownership(INSTANCE)
    one.take("nvme3", CONFIGURATION, found=True)
    assert (one.foreign, one.check(CONFIGURATION)) == (OTHER_UNIT, False)
    leave_report(OTHER, "", 0, name="stopped")
    assert (one.check(CONFIGURATION), one.foreign) == (True, "")
    assert registry.retrieve("nvme3", "unit") == UNIT


def test_other_reports_are_not_read_again_while_the_registry_cannot_be_written(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.add("nvme3", address=OURS)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    asked: list[object] = []

    def nobody(*question: object) -> str:
        asked.append(question)
        return ""

    monkeypatch.setattr(registry, "claim", full)
    monkeypatch.setattr(ownership, "_reporter", nobody)
    one = Ownership(INSTANCE)
    one.take("nvme3", CONFIGURATION, found=True)
    for _ in range(3):
        one.check(CONFIGURATION)
    assert (len(asked), one.foreign) == (1, "")


# A worker -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "hostnqn"),
    [
        pytest.param(OURS, HOST, id="address on loopback"),
        pytest.param(RENAMED, HOST, id="interface renamed"),
        pytest.param(OURS, HOST + "-before", id="host NQN changed"),
    ],
)
def test_worker_that_was_killed_adopts_and_its_stop_disconnects(kernel: Kernel, address: str, hostnqn: str) -> None:
    kernel.add("nvme0", address=address, hostnqn=hostnqn)
    registry.claim("nvme0", registry.OWNER, UNIT)
    leave_report(INSTANCE, "nvme0")
    spec = state.Spec("io", OPTIONS)
    state.write(state.directory(INSTANCE) + "/spec", spec.encode())
    kernel.fails_always = errno.EALREADY
    assert play(INSTANCE, kernel, lambda: until(lambda: kernel.status == "live nvme0"), spec) == 0
    assert (kernel.written, kernel.deleted) == ([], ["nvme0"])


def test_second_path_is_connected_beside_the_first(kernel: Kernel) -> None:
    # Both interfaces have its address.
    kernel.add("nvme0", address=TARGET + ",host_iface=eth1,src_addr=203.0.113.9", hostnqn=HOST)
    registry.claim("nvme0", registry.OWNER, OTHER_UNIT)
    spec = state.Spec("io", OPTIONS)
    state.write(state.directory(INSTANCE) + "/spec", spec.encode())
    assert play(INSTANCE, kernel, lambda: until(lambda: kernel.status == "live nvme1"), spec) == 0
    assert kernel.deleted == ["nvme1"]


# All combinations -----------------------------------------------------------------------------------------

TOOL, SIBLING, FORGOTTEN, OWN, FIRMWARE, NO_OWNER = "stas", OTHER_UNIT, "nvme-ctrl@gone.service", UNIT, "nbft", "none"


@dataclass(frozen=True)
class Case:
    """One controller: what sysfs shows of it, and what the records say."""

    same_target: bool
    going: bool
    fits: bool
    # Whose the registry has it, '' for no entry; NO_OWNER is an entry that was damaged.
    entry: str
    # The last reports: 'own' and 'sibling', with this inode or that of an earlier controller of the name.
    reporter: str
    stale: bool

    @property
    def candidate(self) -> bool:
        return self.same_target and not self.going

    @property
    def anothers(self) -> bool:
        """Tell whether a record says that it is somebody else's."""
        if self.entry in (TOOL, SIBLING):
            return True
        return self.reporter == "sibling" and not self.stale and self.entry != OWN

    @property
    def own(self) -> bool:
        """Tell whether a record says that it is the unit's own, and none says otherwise."""
        reported = self.reporter == "own"
        named = self.entry == OWN and not (reported and self.stale)
        return named or (reported and not self.stale and not self.anothers)


cases = st.builds(
    Case,
    same_target=st.sampled_from([True, True, True, False]),
    going=st.sampled_from([False, False, False, True]),
    fits=st.booleans(),
    entry=st.sampled_from(["", "", TOOL, SIBLING, FORGOTTEN, OWN, FIRMWARE, NO_OWNER]),
    reporter=st.sampled_from(["", "", "own", "sibling"]),
    stale=st.booleans(),
)


def one_report_each(drawn: list[Case]) -> bool:
    """Tell whether no unit has reported two controllers, which its one report cannot."""
    reporters = [one.reporter for one in drawn if one.reporter]
    return len(reporters) == len(set(reporters))


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as made:
        yield made


def build(root: Path, drawn: list[Case], patch: pytest.MonkeyPatch) -> None:
    """Make sysfs, the registry and the reports."""
    for module, name, folder in (
        (controllers, "CLASS", "sys"),
        (registry, "ROOT", "run/registry"),
        (state, "CONTROLLERS", "run/controllers"),
    ):
        (root / folder).mkdir(parents=True)
        patch.setattr(module, name, str(root / folder))
    for instance in (INSTANCE, OTHER):
        Path(state.directory(instance)).mkdir()
    for number, one in enumerate(drawn):
        device = f"nvme{number}"
        (root / "sys" / device).mkdir()
        shown = {
            "transport": "tcp",
            "address": OURS if one.fits else RENAMED,
            "subsysnqn": NQN if one.same_target else NQN + "2",
            "hostnqn": HOST,
            "state": "deleting" if one.going else "live",
        }
        for name, value in shown.items():
            (root / "sys" / device / name).write_text(value + "\n")
        if one.entry == NO_OWNER:
            registry.claim(device, registry.OWNER, "")
            (root / "run/registry" / device / "owner").unlink()
        elif one.entry in (TOOL, FIRMWARE):
            registry.claim(device, one.entry, "")
        elif one.entry:
            registry.claim(device, registry.OWNER, one.entry)
        if one.reporter:
            inode = controllers.sysfs_inode(device) + one.stale
            leave_report(INSTANCE if one.reporter == "own" else OTHER, device, inode)


@settings(deadline=None, max_examples=400)
@given(st.lists(cases, max_size=4).filter(one_report_each))
def test_nothing_of_anybody_else_is_taken_and_own_records_always_win(
    patch: pytest.MonkeyPatch, drawn: list[Case]
) -> None:
    with tempfile.TemporaryDirectory() as root:
        build(Path(root), drawn, patch)
        device, foreign = owned()
    there = [one for one in drawn if one.candidate]
    if not device:
        # Nothing that it would have to take, or to leave to somebody.
        assert not any(one.own or one.fits for one in there)
        return
    taken = drawn[int(device.removeprefix("nvme"))]
    assert taken.candidate
    assert bool(foreign) is taken.anothers
    if any(one.own for one in there):
        assert taken.own
    else:
        assert taken.fits or (taken.reporter == "own" and not taken.stale)
        # It stands back only where there is nothing else.
        assert not (foreign and any(one.fits and not one.anothers for one in there))
