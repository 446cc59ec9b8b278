# SPDX-License-Identifier: Apache-2.0
"""The host's subsystems as libnvme finds them: the one place that knows the packages libnvme (1.x) and libnvme3 (3.x).

Both scan sysfs when their first object is made, write what they have to say to standard output, and can crash, at their
end too (docs/design/dependencies.md). So they are used in a child that ends without cleaning up, and of which only the
answer counts.
"""

import importlib
import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from discoverd.cli.exits import CliError
from discoverd.kernel import block

_MISSING = (
    "neither of the Python packages libnvme and libnvme3 can be imported; on Debian 13 and later: apt install "
    "python3-libnvme; on Debian 12 there is none, but: nvme list-subsys"
)
# The scan reads sysfs, and takes longer for hundreds of controllers.
_TIMEOUT_SECONDS = 60
# How the child says that there is no package.
_NO_PACKAGE = 3


@dataclass(frozen=True, slots=True)
class Path:
    """A controller of a subsystem: its device, such as nvme3, and where it leads to."""

    device: str
    transport: str
    traddr: str
    trsvcid: str
    state: str


@dataclass(frozen=True, slots=True)
class Subsystem:
    """An NVMe subsystem as a host has it: ``name`` is the kernel's, such as nvme-subsys1; ``namespaces`` devices."""

    name: str
    nqn: str
    hostnqn: str
    paths: tuple[Path, ...]
    namespaces: tuple[str, ...]


def subsystems() -> list[Subsystem]:
    """Return all subsystems of this host, those of its own drives too. Raises CliError."""
    return [
        Subsystem(
            one["name"],
            one["nqn"],
            one["hostnqn"],
            tuple(Path(**path) for path in one["paths"]),
            _namespaces(path["device"] for path in one["paths"]),
        )
        for one in json.loads(_ask())
    ]


def _namespaces(devices: Iterable[str]) -> tuple[str, ...]:
    # Not by libnvme: with native multipath its walk over a subsystem's namespaces never ends (1.13).
    found = {name for device in devices for name in block.namespaces(device)}
    return tuple(sorted(found, key=lambda name: (len(name), name)))


def _ask() -> bytes:
    """Return the child's answer. Raises CliError."""
    sys.stdout.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _answer(writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        data = answer.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == _NO_PACKAGE:
        raise CliError(_MISSING)
    if status:
        how = f"was ended by signal {-status}" if status < 0 else "failed"
        raise CliError(f"libnvme {how} while it scanned this host; see instead: nvme list-subsys")
    return data


def _answer(writing: int) -> NoReturn:
    """What the child does."""
    status = 1
    try:
        signal.alarm(_TIMEOUT_SECONDS)
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (1, 2):
            os.dup2(nothing, number)
        with os.fdopen(writing, "wb") as answer:
            answer.write(json.dumps(list(_scan())).encode())
        status = 0
    except ModuleNotFoundError:
        status = _NO_PACKAGE
    finally:
        # Not as usual: the libraries free some objects twice.
        os._exit(status)


def _scan() -> Iterator[dict[str, Any]]:
    """Give each subsystem with its controllers. Raises ModuleNotFoundError."""
    context = _context()
    for host in context.hosts():
        for one in host.subsystems():
            # All at once: what is read while the library walks on is freed already.
            controllers = list(one.controllers())
            yield {
                "name": _text(one, "name"),
                "nqn": _text(one, "subsysnqn"),
                "hostnqn": _text(host, "hostnqn"),
                "paths": [_path(controller) for controller in controllers],
            }


def _context() -> Any:
    try:
        return importlib.import_module("libnvme3.nvme").GlobalCtx()
    except ModuleNotFoundError:
        return importlib.import_module("libnvme.nvme").root()


def _path(controller: Any) -> dict[str, str]:
    fields = {"device": "name", **{name: name for name in ("transport", "traddr", "trsvcid", "state")}}
    return {ours: _text(controller, theirs) for ours, theirs in fields.items()}


def _text(one: Any, name: str) -> str:
    """Return an attribute, which is None where there is nothing, or '' where this version has none of the name."""
    return str(getattr(one, name, None) or "")
