# SPDX-License-Identifier: Apache-2.0
"""The service on the bus: calls are checked against interfaces.py, and answered in turn.

What reads is answered one user after the other, and only while the bus takes what it is sent. What acts has nothing
to do with that: it is handed on at once, so that nobody who asks for all in a loop keeps a stop waiting.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from discoverd.api import TURN_SECONDS, exclusion, interfaces, properties, wire
from discoverd.api.actions import Actions
from discoverd.api.budget import Budget
from discoverd.api.callers import Callers
from discoverd.api.connection import Connection
from discoverd.api.facts import Facts
from discoverd.api.interfaces import (
    DISCOVERY,
    INTROSPECTABLE,
    MANAGER,
    NO_OBJECT,
    OBJECT_MANAGER,
    OURS,
    PEER,
    PROPERTIES,
    ROOT,
    STANDARD,
    Interface,
    Method,
)
from discoverd.api.objects import Objects
from discoverd.api.pages import Pages
from discoverd.api.refusal import RefusalError
from discoverd.api.tree import Tree
from discoverd.api.users import Users
from discoverd.api.wire import Frame
from discoverd.cli.choose import matches
from discoverd.cli.exits import CliError
from discoverd.cli.overview import Controller
from discoverd.supervisor.loop_turn import LoopTurn

log = logging.getLogger("discoverd.api")

# Of one user so many actions wait or are under way, and as many log pages.
UNDER_WAY_MAX = 64
# So many callers are told in so many seconds that they ask for too much; others notice.
_REFUSALS_MAX = 64
_REFUSALS_SECONDS = 0.25
# More than any name has; and of a pattern, which costs a multiple to understand.
_WORD_MAX, _PATTERN_MAX = 512, 64
_TOO_MUCH = "wait for the answers to what you have asked before"


class Service:
    """Answers calls about the ``tree``, the ``objects`` that it shows, and the plan, which is one of the ``facts``.

    ``look_again`` has the objects be as they are now, before each answer; ``page`` reads a log page's file.
    """

    def __init__(
        self,
        tree: Tree,
        objects: Objects,
        facts: Facts,
        look_again: Callable[[], Awaitable[None]],
        page: Callable[[str], Awaitable[bytes]],
    ) -> None:
        self._tree = tree
        self._objects = objects
        self._facts = facts
        self._look_again = look_again
        self._callers = Callers()
        self._tasks: set[asyncio.Task[None]] = set()
        # Those whose users the bus is asked for.
        self._asking: set[str] = set()
        # By user, and whether it acts.
        self._under_way: Counter[tuple[int, bool]] = Counter()
        self._pages = Pages(objects, page)
        self._plan: tuple[object, bytes] = (None, b"")
        self._refused, self._refused_since = 0, 0.0
        self._faults: set[str] = set()
        self._budget = Budget()
        self._actions = Actions()

    def connect(self, connection: Connection) -> None:
        """Use this connection; before the first call is heard."""
        self._connection = connection
        self._users = Users(connection)

    def hear(self, call: Frame) -> None:
        """Take a call."""
        sender = call.text(wire.SENDER)
        user = self._users.known(sender)
        if user is not None:
            self._take(call, user)
        elif not self._callers.put(call, None):
            self._refuse_some(call, _TOO_MUCH)
        elif sender not in self._asking:
            self._asking.add(sender)
            self._go_on(self._learn(sender))

    async def _learn(self, sender: str) -> None:
        """Find out whose a connection is, and take what has waited for that."""
        try:
            user = await self._users.ask(sender)
        except RefusalError as error:
            for call in self._callers.leave(sender.encode()):
                self._refuse_some(call, str(error), error.name)
        else:
            for call in self._callers.leave(sender.encode()):
                self._take(call, user)
        finally:
            self._asking.discard(sender)

    def _take(self, call: Frame, user: int) -> None:
        found = self._lookup(call)
        if found and found[1].acts:
            self._begin(call, user, found[1], self._act(call, user, found[1]))
        elif not self._callers.put(call, user):
            self._refuse_some(call, _TOO_MUCH)

    def _refuse_some(self, call: Frame, text: str, name: str = interfaces.LIMITS_EXCEEDED) -> None:
        """Say that it was too much, unless that itself becomes too much."""
        now = asyncio.get_running_loop().time()
        if now >= self._refused_since + _REFUSALS_SECONDS:
            self._refused, self._refused_since = 0, now
        self._refused += 1
        if self._refused <= _REFUSALS_MAX:
            self._connection.refuse(call, name, text)

    def _begin(self, call: Frame, user: int, method: Method, work: Coroutine[Any, Any, bytes]) -> None:
        """Have an answer made beside those that are made at once, within each user's limit."""
        kind = (user, method.acts)
        if self._under_way[kind] >= UNDER_WAY_MAX:
            work.close()
            self._refuse_some(call, f"{UNDER_WAY_MAX} calls of user {user} wait already; wait for these")
            return
        self._under_way[kind] += 1
        self._go_on(self._finish(call, user, method, work))

    def _go_on(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(self, call: Frame, user: int, method: Method, work: Coroutine[Any, Any, bytes]) -> None:
        kind = (user, method.acts)
        try:
            try:
                body = await work
            except Exception as error:
                await self._connection.room()
                self._refuse(call, error)
            else:
                await self._connection.room()
                self._give(call, user, method, body)
        except ConnectionError:
            pass  # The bus has gone, and whoever asked with it.
        finally:
            self._under_way[kind] -= 1
            if not self._under_way[kind]:
                del self._under_way[kind]

    async def end(self) -> None:
        """Give up what is under way; what was handed on goes on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def run(self) -> None:
        """Answer what waits, for ever. Raises ConnectionError when the bus has gone."""
        while True:
            await self._callers.wait()
            turn = LoopTurn(TURN_SECONDS)
            while taken := self._callers.take():
                await self._look_again()
                await self._connection.room()
                user, call = taken
                try:
                    await self._answer(call, user)
                except Exception as error:
                    self._refuse(call, error)
                await turn.end_if_long()

    # Calls that are answered at once -----------------------------------------------------------------------

    def _lookup(self, call: Frame) -> tuple[Interface, Method] | None:
        """Return what a call is of, None for what the object does not have."""
        path, wanted, member = call.text(wire.PATH), call.text(wire.INTERFACE), call.text(wire.MEMBER)
        for one in (wanted,) if wanted else (*STANDARD, *self._tree.get(path)):
            interface = STANDARD.get(one) or OURS.get(one)
            if interface is None or (one in OURS and one not in self._tree.get(path)):
                continue
            if one == OBJECT_MANAGER and path != ROOT:
                continue
            if method := interface.method(member):
                return interface, method
        return None

    async def _answer(self, call: Frame, user: int) -> None:
        path = call.text(wire.PATH)
        found = self._lookup(call)
        if found is None or (path not in self._tree and found[0].name != PEER):
            raise self._unknown(call)
        interface, method = found
        if method.acts:
            # Its object was not there yet when it was heard.
            self._begin(call, user, method, self._act(call, user, method))
            return
        if call.text(wire.SIGNATURE) != method.signature:
            raise RefusalError(interfaces.INVALID_ARGUMENTS, f"{method.name} takes {method.signature or 'nothing'!r}")
        if interface.name == DISCOVERY:
            self._begin(call, user, method, self._log_page(call))
            return
        if method.name == "Find":
            body = await self._find(call)
        else:
            body = self._answers[interface.name, method.name](self, call, path)
        self._give(call, user, method, body)

    def _give(self, call: Frame, user: int, method: Method, body: bytes) -> None:
        """Answer a call, if its user has not been sent too much already."""
        if self._budget.spend(user, len(body), asyncio.get_running_loop().time()):
            self._connection.answer(call, method.answer, body)
        else:
            self._connection.refuse(
                call,
                interfaces.LIMITS_EXCEEDED,
                f"the connections of user {user} have been sent too much lately; ask less often, and have signals tell "
                "what changes",
            )

    def _refuse(self, call: Frame, error: Exception) -> None:
        """Answer a call with an error. A fault of ours is one, and no reason to leave others without answers."""
        if isinstance(error, RefusalError):
            self._connection.refuse(call, error.name, str(error))
        elif isinstance(error, wire.WireError):
            self._connection.refuse(call, interfaces.INVALID_ARGUMENTS, str(error))
        elif isinstance(error, ConnectionError):
            raise error
        else:
            what = f"{call.text(wire.MEMBER)}: {error!r}"
            # Once, because whoever has found such a call can make it again and again.
            if (known := f"{call.text(wire.MEMBER)} {type(error).__name__}") not in self._faults:
                self._faults.add(known)
                log.error("cannot answer %s; please report this", what, exc_info=error)
            self._connection.refuse(call, interfaces.FAILED, f"{what}; see: journalctl -u discoverd-api.service")

    def _unknown(self, call: Frame) -> RefusalError:
        path, wanted, member = call.text(wire.PATH), call.text(wire.INTERFACE), call.text(wire.MEMBER)
        if path not in self._tree:
            return RefusalError(interfaces.UNKNOWN_OBJECT, f"there is no object {path}")
        if wanted and wanted not in STANDARD and wanted not in self._tree.get(path):
            return RefusalError(interfaces.UNKNOWN_INTERFACE, f"{path} has no interface {wanted}")
        return RefusalError(interfaces.UNKNOWN_METHOD, f"{path} has no method {member}")

    def _introspect(self, _: Frame, path: str) -> bytes:
        return wire.marshal("s", self._tree.introspect(path))

    def _ping(self, _call: Frame, _path: str) -> bytes:
        return b""

    def _machine_id(self, _call: Frame, _path: str) -> bytes:
        return wire.marshal("s", MACHINE_ID)

    def _get(self, call: Frame, path: str) -> bytes:
        interface, name = call.values("ss")
        if name not in self._properties(path, interface):
            raise RefusalError(interfaces.UNKNOWN_PROPERTY, f"{path} has no property {name}")
        return self._tree.one_of(path, interface, name)

    def _get_all(self, call: Frame, path: str) -> bytes:
        (interface,) = call.values("s")
        self._properties(path, interface)
        return self._tree.all_of(path, interface)

    def _set(self, _call: Frame, path: str) -> bytes:
        raise RefusalError(interfaces.READ_ONLY, f"{path} has no property that can be set")

    def _properties(self, path: str, interface: str) -> Mapping[str, Any]:
        """Return the properties of an interface that an object has. Raises RefusalError."""
        found = self._tree.get(path)
        if interface not in found and interface not in STANDARD:
            raise RefusalError(interfaces.UNKNOWN_INTERFACE, f"{path} has no interface {interface}")
        return found.get(interface, {})

    def _managed(self, _call: Frame, _path: str) -> bytes:
        return self._tree.managed()

    def _decisions(self, _call: Frame, _path: str) -> bytes:
        plan = self._facts.plan
        if self._plan[0] is not plan:
            rows = [wire.element("(sssss)", row) for row in properties.decisions(plan)]
            self._plan = (plan, wire.array(rows))
        return self._plan[1]

    async def _find(self, call: Frame) -> bytes:
        (word,) = call.values("s")
        if len(word) > (_PATTERN_MAX if any(one in word for one in "*?[") else _WORD_MAX):
            raise RefusalError(
                interfaces.INVALID_ARGUMENTS,
                f"give at most {_WORD_MAX} characters, and {_PATTERN_MAX} of a pattern",
            )
        found = self._objects.controllers
        try:
            # Beside the loop: each controller is compared in several ways. Places are left
            # out, because this process does not see what is at one.
            meant = await asyncio.to_thread(matches, word, list(found.values()), places=False) if word else []
        except CliError as error:
            raise RefusalError(interfaces.INVALID_ARGUMENTS, " ".join([str(error), *error.lines])) from None
        named = set(map(id, meant))
        return wire.marshal("ao", [path for path, one in found.items() if id(one) in named])

    _answers: ClassVar[dict[tuple[str, str], Callable[["Service", Frame, str], bytes]]] = {
        (INTROSPECTABLE, "Introspect"): _introspect,
        (PEER, "Ping"): _ping,
        (PEER, "GetMachineId"): _machine_id,
        (PROPERTIES, "Get"): _get,
        (PROPERTIES, "GetAll"): _get_all,
        (PROPERTIES, "Set"): _set,
        (OBJECT_MANAGER, "GetManagedObjects"): _managed,
        (MANAGER, "Plan"): _decisions,
    }

    # Calls that take longer --------------------------------------------------------------------------------

    async def _log_page(self, call: Frame) -> bytes:
        """Return what answers LogPage."""
        return await self._pages.body(self._controller(call))

    def _controller(self, call: Frame) -> Controller:
        one = self._objects.controllers.get(call.text(wire.PATH))
        if one is None:
            raise RefusalError(interfaces.UNKNOWN_OBJECT, f"{call.text(wire.PATH)} is no more")
        return one

    async def _act(self, call: Frame, user: int, method: Method) -> bytes:
        """Hand on a call that has something done, and return what answers it."""
        sender, interactive = call.text(wire.SENDER), bool(call.flags & wire.INTERACTIVE)
        async with self._actions.turn(user):
            # Not before: to understand them is work that each user has a share of.
            values = call.values(method.signature)
            if method.name in ("Exclude", "Unexclude"):
                entries = await self._exclusions(values[0])
                done = await self._actions.ask(sender, interactive, method.name.lower(), entries=entries)
                return wire.marshal("as", [str(place) for place in done.get("places", ())])
            what = self._unit_verb(call, method) if method.name != "Reload" else {"verb": "reload"}
            done = await self._actions.ask(sender, interactive, **what)
            return wire.marshal("o", str(done.get("job", NO_OBJECT)))

    async def _exclusions(self, words: Iterable[str]) -> list[exclusion.Fields]:
        turn = LoopTurn(TURN_SECONDS)
        found = []
        for word in words:
            found.append(self._exclusion(word))
            await turn.end_if_long()
        return found

    def _unit_verb(self, call: Frame, method: Method) -> dict[str, Any]:
        """Return what is to be done with a controller's unit. Raises RefusalError where there is none."""
        one = self._controller(call)
        verb = method.name.lower()
        if verb == "disconnect":
            # Without a device there is a worker to be stopped, at most.
            verb = "disconnect" if one.device else "stop"
        if verb == "disconnect" and one.device and len(self._objects.named.get(one.name, ())) > 1:
            raise RefusalError(
                interfaces.FAILED,
                f"other controllers are called {one.name} as well; disconnect this one by its device: discoverctl "
                f"disconnect {one.device.name}",
            )
        if verb != "disconnect" and one.unit is None:
            raise RefusalError(
                interfaces.NO_UNIT,
                f"{one.name} has no unit at the moment, because discoverd makes it; see: systemctl status discoverd",
            )
        return {"verb": verb, "instance": one.name}

    def _exclusion(self, word: str) -> exclusion.Fields:
        """Return the exclusion that a word means: one as it is, an NQN, or a controller's instance. Raises
        RefusalError."""
        # Those of one name have the same target.
        found = self._objects.named.get(word)
        try:
            return exclusion.of_target(*properties.target(found[0])[:5]) if found else exclusion.of_word(word)
        except exclusion.ExclusionError as error:
            raise RefusalError(interfaces.INVALID_ARGUMENTS, str(error)) from None


def _machine() -> str:
    try:
        return Path("/etc/machine-id").read_text().strip()
    except OSError:
        return ""


# Read when the process starts, before there is a loop.
MACHINE_ID = _machine()
