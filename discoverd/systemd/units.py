# SPDX-License-Identifier: Apache-2.0
"""The controllers' units, as the event loop sees them: start, stop, list, through the unit agent's process."""

import asyncio
import itertools
import json
import signal
from collections.abc import Iterable
from typing import Any

from discoverd.bus.calls import RefusedError
from discoverd.plan.facts import UnitFact
from discoverd.systemd.agent_process import AgentProcess
from discoverd.systemd.references import MASKED, References
from discoverd.systemd.unit_properties import Property
from discoverd.tid import unit_instance, unit_name

# PID 1 answers in milliseconds, but at boot or shutdown it may be busy for long.
ANSWER_TIMEOUT_SECONDS = 60
# The longest answer: a list of thousands of units.
_LINE_BYTES = 1 << 24


class UnitError(Exception):
    """systemd refused, or could not be asked; the text is its reason."""


class Units:
    """A connection to systemd. When it is ``lost``, make a new one.

    ``references`` keep loaded what was started.
    """

    def __init__(
        self,
        process: AgentProcess,
        requests: asyncio.WriteTransport,
        answers: asyncio.StreamReader,
        closing: asyncio.BaseTransport,
        references: References,
    ) -> None:
        self._process = process
        self._requests = requests
        self._answers = answers
        self._closing = closing
        self._references = references
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, launcher: str, references: References, process: AgentProcess | None = None) -> "Units":
        """Use this process of the agent's, or start one. Raises UnitError."""
        try:
            process = process or AgentProcess(launcher)
        except OSError as error:
            raise UnitError(f"cannot start the process that talks to systemd: {error.strerror}") from error
        loop = asyncio.get_running_loop()
        answers = asyncio.StreamReader(_LINE_BYTES)
        reading, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(answers), process.answers)
        requests, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, process.requests)
        return cls(process, requests, answers, reading, references)

    @property
    def lost(self) -> bool:
        """Tell whether the agent's process is gone."""
        return self._reader.done()

    async def wait_lost(self) -> None:
        """Return when the agent's process has ended."""
        await asyncio.wait([self._reader])

    async def close(self) -> None:
        """End the agent's process."""
        await asyncio.to_thread(self._process.end)
        # asyncio has mostly seen already that nobody reads it any more, and takes an end once only.
        if not self._requests.is_closing():
            self._requests.abort()
        await self._reader
        self._closing.close()

    async def start(self, instance: str, properties: list[Property]) -> str:
        """Start a unit, making it if need be; returns ``started``, ``running`` or ``masked``.

        Raises UnitError.
        """
        result: str = await self._ask("start", unit_name(instance), properties)
        if result != "masked":
            self._references.keep([instance])
        return result

    async def make_stopped(self, instance: str, properties: list[Property]) -> str:
        """Make a unit whose start does nothing; returns ``started``, ``masked``, or ``running`` if it is there already.

        Without a reference from the beginning nothing would be left of it. Raises UnitError.
        """
        try:
            made = await self._references.make(instance, properties)
        except RefusedError as error:
            if error.name == MASKED:
                return "masked"
            raise UnitError(str(error)) from error
        except OSError as error:
            raise UnitError(str(error)) from error
        return "started" if made else "running"

    async def stop(self, instance: str) -> None:
        """Queue the stop of a unit. Raises UnitError."""
        await self._ask("stop", unit_name(instance))

    async def hang_up(self, instance: str) -> None:
        """Make a worker read its specification again. Raises UnitError."""
        await self._ask("signal", unit_name(instance), int(signal.SIGHUP))

    async def going_down(self, instance: str) -> None:
        """Tell a worker that a shutdown has begun. Raises UnitError."""
        await self._ask("signal", unit_name(instance), int(signal.SIGUSR1))

    async def soft_reboots(self) -> int:
        """Return how often user space was booted anew since the kernel started. Raises UnitError."""
        count: int = await self._ask("soft_reboots")
        return count

    def keep_loaded(self, instances: Iterable[str]) -> None:
        """Keep loaded units loaded when they stop; it is done by and by."""
        self._references.keep(instances)

    def release(self, instance: str) -> None:
        """Let a unit be unloaded when it does not run; unit_signals.Released tells when that is done."""
        self._references.release(instance)

    async def list(self, instances: Iterable[str] = ()) -> dict[str, UnitFact]:
        """Return what systemd has, by instance: all units, or these only. Raises UnitError."""
        units = [unit_name(instance) for instance in instances]
        rows: dict[str, dict[str, Any]] = await self._ask("list", units)
        facts = {}
        for name, row in rows.items():
            instance = unit_instance(name)
            # systemd also lists names that are only mentioned somewhere, in an After= of an fstab entry perhaps.
            if instance is not None and row["load"] != "not-found":
                facts[instance] = UnitFact(row["load"], row["active"], row["job"])
        return facts

    async def others(self, units: Iterable[str], patterns: Iterable[str]) -> dict[str, UnitFact]:
        """Return what systemd has of other tools, by name: these units, loaded or not, and what fits a pattern.

        Raises UnitError.
        """
        rows: dict[str, dict[str, Any]] = await self._ask("others", [*units], [*patterns])
        return {name: UnitFact(row["load"], row["active"], row["job"]) for name, row in rows.items()}

    async def _ask(self, operation: str, *arguments: object) -> Any:
        number = next(self._numbers)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.lost:
            raise UnitError("the process that talks to systemd has ended")
        self._waiting[number] = answer
        request = {"id": number, "operation": operation, "arguments": arguments}
        self._requests.write(json.dumps(request).encode() + b"\n")
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
                return await answer
        except TimeoutError:
            raise UnitError(f"systemd has not answered for {ANSWER_TIMEOUT_SECONDS} s") from None
        finally:
            self._waiting.pop(number, None)

    async def _read(self) -> None:
        while line := await self._answers.readline():
            message = json.loads(line)
            answer = self._waiting.get(message["id"])
            if answer is None or answer.done():
                continue  # Too late: nobody waits any more.
            if "error" in message:
                answer.set_exception(UnitError(message["error"]))
            else:
                answer.set_result(message["result"])
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(UnitError("the process that talks to systemd has ended"))
