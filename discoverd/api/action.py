# SPDX-License-Identifier: Apache-2.0
"""The process that does one thing for a caller of the API who may have it done: root's, without a capability.

The API's process has no right to anything. It hands on who asks for what (discoverd-api-action.socket; a line of JSON,
and one as an answer), and systemd makes a process of it, which asks polkit whether that caller may. For units that is
what systemd itself would ask (org.freedesktop.systemd1.manage-units, with the unit and the verb), for exclusions what
it would ask about unit files (org.freedesktop.systemd1.manage-unit-files), because an exclusion outlives the boot as a
masked unit does. Only then it acts, on what is listed here: controllers' units, a reload of discoverd, the exclusion
lists.

systemd is asked on its own socket, which only root can use, so no flood on the bus reaches the answer.
"""

import asyncio
import contextlib
import errno
import json
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from discoverd import exclusions, state
from discoverd.api import connection as connections
from discoverd.api.actions import REQUEST_BYTES_MAX
from discoverd.api.connection import BUS, BUS_PATH, Connection, RefusedError, connected
from discoverd.api.exclusion import ExclusionError, Fields, written
from discoverd.api.interfaces import ACCESS_DENIED, FAILED, INTERACTIVE_REQUIRED, INVALID_ARGUMENTS, NO_UNIT
from discoverd.api.refusal import RefusalError
from discoverd.api.units import DAEMON, MANAGER, SYSTEMD_PATH
from discoverd.api.wire import Frame, WireError
from discoverd.cli import exclusion_lists
from discoverd.cli.exits import CliError
from discoverd.tid import unit_name

PRIVATE = "/run/systemd/private"
# The unit that does what `discoverctl disconnect` does. Its prefix is no longer than that of controllers' units, which
# leaves room for the longest instance (discoverd/tid.py).
DISCONNECT_UNIT = "nvme-drop@{}.service"
# Who is asked for a password takes his time.
POLKIT_TIMEOUT_SECONDS = 120
SYSTEMD_TIMEOUT_SECONDS = 60

# As with systemd, polkit is not asked about root, and need not be there.
ROOT_USER = 0
MANAGE_UNITS = "org.freedesktop.systemd1.manage-units"
MANAGE_UNIT_FILES = "org.freedesktop.systemd1.manage-unit-files"
_POLKIT = "org.freedesktop.PolicyKit1"
_AUTHORITY = "/org/freedesktop/PolicyKit1/Authority"
_INTERACTION = 1
_NO_SUCH_UNIT = "org.freedesktop.systemd1.NoSuchUnit"
# What is called for a verb, and what systemd asks polkit about.
_UNIT_VERBS = {
    "start": ("StartUnit", "start"),
    "stop": ("StopUnit", "stop"),
    "restart": ("RestartUnit", "restart"),
    "disconnect": ("StartUnit", "stop"),
}
_RELOAD, _EXCLUDE, _UNEXCLUDE = "reload", "exclude", "unexclude"


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for, and by whom: the name of his connection, and whether he can be asked for a password."""

    verb: str
    sender: str
    interactive: bool
    instance: str = ""
    entries: tuple[Fields, ...] = ()


def understand(line: bytes) -> Request:
    """Return the request in a line. Raises RefusalError."""
    try:
        raw = json.loads(line)
        request = Request(
            str(raw["verb"]),
            str(raw["sender"]),
            raw["interactive"] is True,
            str(raw.get("instance", "")),
            tuple({str(key): str(value) for key, value in entry.items()} for entry in raw.get("entries", ())),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RefusalError(INVALID_ARGUMENTS, f"the request makes no sense: {error!r}") from None
    known = request.verb in (_RELOAD, _EXCLUDE, _UNEXCLUDE)
    if not known and (request.verb not in _UNIT_VERBS or not state.valid_instance(request.instance)):
        raise RefusalError(
            INVALID_ARGUMENTS, f"{request.verb} of {request.instance!r} is nothing that can be asked for"
        )
    if request.sender[:1] != ":":
        raise RefusalError(INVALID_ARGUMENTS, f"{request.sender!r} is nobody on the bus")
    return request


async def carry_out(request: Request) -> dict[str, Any]:
    """Do what is asked for, if the caller may. Raises RefusalError."""
    if request.verb in (_EXCLUDE, _UNEXCLUDE):
        try:
            entries = [written(entry) for entry in request.entries]
        except ExclusionError as error:
            raise RefusalError(INVALID_ARGUMENTS, str(error)) from None
        await _authorise(request, MANAGE_UNIT_FILES, {})
        edit = _exclude if request.verb == _EXCLUDE else _unexclude
        try:
            return {"places": await asyncio.to_thread(edit, entries)}
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            # Its unit has it so.
            raise RefusalError(
                FAILED,
                f"only what is in {exclusions.ROOT} can be written from here, and it is missing, or a list in it is a "
                f"link to elsewhere; use discoverctl {request.verb}",
            ) from None
    if request.verb == _RELOAD:
        await _authorise(request, MANAGE_UNITS, {"unit": DAEMON, "verb": "reload"})
        return {"job": await _job("ReloadUnit", DAEMON)}
    unit = unit_name(request.instance)
    method, verb = _UNIT_VERBS[request.verb]
    await _authorise(request, MANAGE_UNITS, {"unit": unit, "verb": verb})
    return {
        "job": await _job(method, DISCONNECT_UNIT.format(request.instance) if request.verb == "disconnect" else unit)
    }


# Whether he may --------------------------------------------------------------------------------------------


async def _authorise(request: Request, action: str, details: Mapping[str, str]) -> None:
    """Return if the caller may. Raises RefusalError."""
    async with _bus() as bus:
        try:
            (user,) = await bus.call(BUS, BUS_PATH, BUS, "GetConnectionUnixUser", "s", request.sender, answer="u")
        except RefusedError:
            raise RefusalError(ACCESS_DENIED, "whoever asked has left the bus") from None
        if user == ROOT_USER:
            return
        # The first time without a word to anybody: most of those who may need not prove it.
        allowed, challenge = await _ask(bus, request.sender, action, details, 0)
        if challenge and not allowed and request.interactive:
            allowed, challenge = await _ask(bus, request.sender, action, details, _INTERACTION)
    if allowed:
        return
    if challenge and not request.interactive:
        raise RefusalError(INTERACTIVE_REQUIRED, "a password is asked for this, and the call did not allow that")
    raise RefusalError(ACCESS_DENIED, f"polkit does not allow this ({action}); an administrator can allow it by a rule")


async def _ask(bus: Connection, sender: str, action: str, details: Mapping[str, str], flags: int) -> tuple[bool, bool]:
    subject = ("system-bus-name", {"name": ("s", sender)})
    try:
        ((allowed, challenge, _),) = await bus.call(
            *(_POLKIT, _AUTHORITY, _POLKIT + ".Authority", "CheckAuthorization", "(sa{sv})sa{ss}us"),
            *(subject, action, dict(details), flags, ""),
            answer="(bba{ss})",
            seconds=POLKIT_TIMEOUT_SECONDS,
        )
    except RefusedError as error:
        raise RefusalError(ACCESS_DENIED, f"polkit cannot be asked ({error}), so only root may") from None
    return allowed, challenge


# What is done ----------------------------------------------------------------------------------------------


async def _job(method: str, unit: str) -> str:
    """Have systemd queue a job; return its object."""
    async with _systemd() as systemd:
        try:
            (job,) = await systemd.call(
                *("", SYSTEMD_PATH, MANAGER, method, "ss", unit, "replace"),
                answer="o",
                seconds=SYSTEMD_TIMEOUT_SECONDS,
            )
        except RefusedError as error:
            if error.name == _NO_SUCH_UNIT:
                raise RefusalError(
                    NO_UNIT, f"{unit} is not loaded; discoverd makes it: see systemctl status discoverd"
                ) from None
            # The error that systemd would have given him.
            raise RefusalError(error.name, str(error)) from None
    return str(job)


@contextlib.asynccontextmanager
async def _bus() -> AsyncIterator[Connection]:
    async with connected(connections.SYSTEM_BUS, _nobody, _nobody) as bus:
        yield bus


@contextlib.asynccontextmanager
async def _systemd() -> AsyncIterator[Connection]:
    async with connected(PRIVATE, _nobody, _nobody, bus=False) as systemd:
        yield systemd


def _nobody(_: Frame) -> None:
    """Nobody calls this process, and it listens to no signal."""


def _exclude(entries: list[str]) -> list[str]:
    return [place for place, _ in exclusion_lists.add(exclusions.ROOT, "", entries)]


def _unexclude(entries: list[str]) -> list[str]:
    meant = [exclusions.understand(entry)[0] for entry in entries]
    removed = exclusion_lists.remove(exclusions.ROOT, lambda written: exclusions.understand(written)[0] in meant)
    return [place for place, _ in removed]


async def serve(line: bytes) -> bytes:
    """Return the answer to a request, both as lines."""
    try:
        answer = await carry_out(understand(line))
    except RefusalError as error:
        answer = {"error": error.name, "text": str(error)}
    except (CliError, OSError, WireError) as error:
        answer = {"error": FAILED, "text": str(error)}
    return json.dumps(answer).encode() + b"\n"


def main() -> int:
    """Serve the one request on standard input, which is a connection of the API's."""
    line = sys.stdin.buffer.readline(REQUEST_BYTES_MAX)
    answer = asyncio.run(serve(line))
    # Standard output is the journal's; the answer goes where the request came from.
    with open(sys.stdin.fileno(), "wb", closefd=False) as connection, contextlib.suppress(BrokenPipeError):
        connection.write(answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
