# SPDX-License-Identifier: Apache-2.0
"""``discoverctl topology``: each subsystem with its paths, its namespaces, and what is on them."""

from collections.abc import Mapping, Sequence

from discoverd.cli import libnvme, namespaces, order, terminal, text
from discoverd.cli.exits import CliError, Exit
from discoverd.cli.libnvme import Path, Subsystem
from discoverd.cli.listing import place, size
from discoverd.cli.namespaces import Namespace
from discoverd.config.errors import printable
from discoverd.kernel import block
from discoverd.tid import TRANSPORTS

# By namespace, the ANA state through each controller of a subsystem, '' where it has none.
_Ana = Mapping[str, Mapping[str, str]]


def show(json: bool) -> Exit:
    """Print the subsystems that a network leads to. Raises CliError where libnvme is missing or fails."""
    found = [one for one in libnvme.subsystems() if any(path.transport in TRANSPORTS for path in one.paths)]
    found.sort(key=lambda one: (order.natural(one.nqn), [_address(path) for path in _paths(one)], one.name))
    try:
        known = namespaces.named({name for one in found for name in one.namespaces})
    except OSError as error:
        raise CliError(f"cannot tell what is on the namespaces: {error.strerror or error}; see: lsblk") from None
    if json:
        text.document({"version": 1, "subsystems": [_document(one, _ana(one), known) for one in found]})
        return Exit.OK
    width = terminal.columns()
    for one in found:
        for line in _lines(one, _ana(one), known, width):
            text.raw(line)
    count = f"{text.count(len(found), 'subsystem')}, {text.count(sum(len(one.paths) for one in found), 'path')}"
    for line in terminal.fold(count, width) if width else [count]:
        text.line(line)
    return Exit.OK


def _paths(subsystem: Subsystem) -> list[Path]:
    """Return its paths by their addresses: which of them is nvme0 depends on which was connected first."""
    return sorted(subsystem.paths, key=lambda path: (_address(path), order.natural(path.device)))


def _address(path: Path) -> object:
    return order.address(path.transport, path.traddr, path.trsvcid)


def _ana(subsystem: Subsystem) -> _Ana:
    return {
        name: {path.device: block.ana_state(path.device, name) for path in subsystem.paths}
        for name in subsystem.namespaces
    }


def _document(one: Subsystem, ana: _Ana, known: Mapping[str, Namespace]) -> dict[str, object]:
    return {
        "name": one.name,
        "subsysnqn": one.nqn,
        "hostnqn": one.hostnqn,
        "paths": [
            {
                "device": path.device,
                "transport": path.transport,
                "address": path.traddr,
                "service": path.trsvcid,
                "kernel_state": path.state,
                "ana_states": {name: states[path.device] for name, states in ana.items() if states[path.device]},
            }
            for path in _paths(one)
        ],
        "namespaces": [
            {"name": space.name, "size": space.size, "devices": list(space.devices), "users": list(space.users)}
            for space in (known[name] for name in one.namespaces)
        ],
    }


def _lines(one: Subsystem, ana: _Ana, known: Mapping[str, Namespace], width: int) -> list[str]:
    nqn = printable(one.nqn)
    lines = [terminal.painted(terminal.cut(nqn, width) if width else nqn, terminal.BOLD)]
    rows = [[path.device, place(path.transport, path.traddr, path.trsvcid), _state(path, ana)] for path in _paths(one)]
    rows += [[name, size(known[name].size), _content(known[name])] for name in one.namespaces]
    return lines + _table(rows, width)


def _state(path: Path, ana: _Ana) -> str:
    """Return the kernel's state of a path, with the ANA states of the namespaces through it."""
    by_state: dict[str, list[str]] = {}
    for name, states in ana.items():
        if states[path.device]:
            by_state.setdefault(states[path.device], []).append(name)
    if len(by_state) == 1:
        return f"{path.state}, {next(iter(by_state))}"
    each = [f"{state} for {' and '.join(names)}" for state, names in by_state.items()]
    return ", ".join([path.state, *each])


def _content(space: Namespace) -> str:
    """Return what lies on a namespace, and who uses that."""
    parts = [", ".join(space.devices), ", ".join(space.users)]
    return ": ".join(part for part in parts if part) or "nothing mounted"


def _table(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max((len(row[column]) for row in cells), default=0) for column in (0, 1)]
    offset = 2 + sum(widths) + 4
    lines = []
    for device, where, rest in cells:
        line = f"  {device.ljust(widths[0])}  {where.ljust(widths[1])}  {rest}"
        if not width or len(line) <= width:
            lines.append(line.rstrip())
        elif width >= offset + 12:
            first, *more = terminal.fold(rest, width - offset)
            lines += [f"{line[:offset]}{first}", *(" " * offset + part for part in more)]
        else:
            lines += [f"  {part}" for part in terminal.fold(f"{device}  {where}  {rest}", width - 2, "  ")]
    return lines
