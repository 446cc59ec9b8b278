# SPDX-License-Identifier: Apache-2.0
"""Machines for scenarios, and what holds for every one of them: our units log no error that was not expected."""

import contextlib
import sys
from collections.abc import Callable, Generator, Iterator, Sequence

import pytest
from _pytest.runner import runtestprotocol

from tests.lab import evidence, journal, snapshot, storage
from tests.lab.image import Image, ImageError, build
from tests.lab.machine import LabError, Machine

DISCONNECT = """
for controller in /sys/class/nvme/nvme*; do
    [ -w "$controller/delete_controller" ] && echo 1 >"$controller/delete_controller"
done
"""
# Everything that a scenario may leave on a machine that the next one shares. The stop comes first, so that nothing
# connects again what is disconnected here; the target goes last, so that disconnecting finds it.
CLEAN = (
    r"""
systemctl stop discoverd.service
systemctl stop 'nvme-ctrl@*.service'
systemctl reset-failed
changed=$(ls -d /etc/systemd/system/nvme-ctrl@* /etc/systemd/system/discoverd.service.d 2>/dev/null)
umount --all-targets --lazy /dev/nvme*n* 2>/dev/null
"""
    + DISCONNECT
    + r"""
lab-network restore path0
lab-network restore path1
[ -z "$(ls -d /sys/kernel/config/nvmet/*/* 2>/dev/null)" ] || lab-target down
rm -rf /run/discoverd /var/lib/discoverd/* /run/nvme/registry/* /etc/nvme/nvme-fabrics.conf \
    /etc/nvme/nvme-fabrics.conf.d /etc/nvme/discoverd.conf /etc/nvme/discoverd.conf.d /etc/nvme/exclusions \
    /etc/nvme/exclusions.conf /etc/nvme/exclusions.conf.d '/etc/systemd/system/nvme-ctrl@'* \
    /etc/systemd/system/discoverd.service.d
[ -z "$changed" ] || systemctl daemon-reload
"""
)
# What nvme-cli's units connect after the stop, which makes way for them, goes as well.
LEFT = (
    DISCONNECT
    + """
! { ls -d /sys/class/nvme/* /run/nvme/registry/* 2>/dev/null; systemctl list-units --no-legend 'nvme-ctrl@*'; } | grep .
"""
)

# The kernel of a scenario's machine has died of its emulation.
BROKEN = pytest.StashKey[bool]()

_used: set[Machine] = set()
_machines: list[Machine] = []
_allowed: list[str] = []


def clean(machine: Machine) -> None:
    """Brings a running machine to the state after a boot. Raises LabError with what would not go."""
    machine.run(CLEAN, check=False, timeout=120)
    machine.wait_until(LEFT, what="no controller and no unit left")


@pytest.fixture(scope="session")
def image() -> Image:
    try:
        return build()
    except ImageError as error:
        pytest.exit(f"lab: {error}", returncode=1)


@contextlib.contextmanager
def booted(image: Image, extra: Sequence[str] = ()) -> Iterator[Machine]:
    """A booted machine, with these options of QEMU's besides, that is discarded at the end."""
    machine = Machine(image, extra, saved=None if extra else snapshot.of(image))
    _machines.append(machine)
    try:
        try:
            machine.boot()
        except LabError as error:
            raise LabError(f"{error}\nkept in {evidence.keep('boot', machine)}") from error
        yield machine
    finally:
        _machines.remove(machine)
        _used.discard(machine)
        machine.discard()


@pytest.fixture(scope="module")
def machine(image: Image) -> Iterator[Machine]:
    """A booted machine that the module's scenarios share; discoverd is installed and not running."""
    with booted(image) as result:
        yield result


@pytest.fixture
def host(machine: Machine) -> Machine:
    """The module's machine in the state after a boot: no target, no configuration, no unit, discoverd stopped."""
    if machine in _used:
        clean(machine)
    return machine


@pytest.fixture
def fresh_machine(image: Image) -> Iterator[Machine]:
    """A booted machine of the scenario's own, to reboot, power off or kill."""
    with booted(image) as result:
        yield result


@pytest.fixture
def impatient(host: Machine) -> Iterator[Machine]:
    """The kernel waits for the answer to a command of its own for five seconds instead of sixty."""
    timeout = "/sys/module/nvme_core/parameters/admin_timeout"
    host.run(f"modprobe nvme-tcp && echo 5 >{timeout}")
    yield host
    host.run(f"echo 60 >{timeout}")


@pytest.fixture
def allow_journal() -> Iterator[Callable[[str], None]]:
    """Call it with a regular expression to expect messages that match it at priority err or worse."""
    yield _allowed.append
    _allowed.clear()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """Runs a scenario once more whose kernel has died of its emulation, in which nothing that is tested has a part."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, log=False, nextitem=nextitem)
    if item.stash.get(BROKEN, False):
        del item.stash[BROKEN]
        sys.stderr.write(f"lab: the emulation broke the kernel; once more: {item.nodeid}\n")
        for machine in _machines:
            if machine.broken_by_emulation:
                machine.renew()
                _used.discard(machine)
        item._initrequest()  # type: ignore[attr-defined]  # For the fixtures of the second run.
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Judges the journal of every machine since the scenario began as part of the scenario itself."""
    _used.update(_machines)
    since = {machine: machine.journal_end() for machine in _machines}
    yield
    wrong = [
        str(entry)
        for machine, start in since.items()
        for entry in journal.unexpected(machine.journal(since=start), _allowed)
    ]
    if wrong:
        pytest.fail("errors in the journal of our units:\n" + "\n".join(wrong), pytrace=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The times that scenarios measured; they are no verdict, because machines differ."""
    reports = [*terminalreporter.stats.get("passed", ()), *terminalreporter.stats.get("failed", ())]
    times = [pair for report in reports for pair in report.user_properties if report.when == "call"]
    if times:
        terminalreporter.section("seconds to power off")
        for title, seconds in times:
            terminalreporter.write_line(f"{seconds:6.1f}  {title}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        # Reports reach the process that prints the summary, whichever process made them.
        report.user_properties = [*report.user_properties, *storage.TIMES]
        storage.TIMES.clear()
    if report.failed:
        if any(machine.broken_by_emulation for machine in _machines):
            item.stash[BROKEN] = True
        for machine in _machines:
            folder = evidence.keep(item.nodeid, machine)
            said = f"journal, console and states of the machine are in {folder}\n{evidence.last_words(machine)}"
            report.sections.append(("lab", said))
    return report
