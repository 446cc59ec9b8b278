# SPDX-License-Identifier: Apache-2.0
"""Orders, as they arrive on the socket; the process, as an engineer starts it."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cdc import control
from tests.cdc.fabric import Instance
from tests.cdc.orders import Orders
from tests.unit.cdc.host import HOST, Host, server_of, serving
from tests.unit.cdc.registrations import data

UNIQUE = "nqn.2024-08.com.example:cdc"


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def order(self, name: str, /, **words: Any) -> dict[str, Any]:
        self._writer.write(json.dumps({"order": name} | words).encode() + b"\n")
        answer: dict[str, Any] = json.loads(await asyncio.wait_for(self._reader.readline(), 10))
        return answer


def test_a_life_by_orders(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(Instance("a"), Instance("b")) as fabric:
            server = server_of(fabric)
            socket = await control.serve(Orders(server), tmp_path / "control")
            reader, writer = await asyncio.open_unix_connection(tmp_path / "control", limit=control.LONGEST)
            client = Client(reader, writer)
            async with Host(fabric.instances["a"].port) as host:
                await host.dim(0, data())
                status = (await client.order("status"))["instances"]
                assert [row["host"] for row in status["a"]["connections"]] == [HOST]
                assert status["b"]["connections"] == []
                record = await client.order("record", raw=True)
                assert record["registered"][0]["raw"] == data().hex()
                assert [note["what"] for note in record["history"]] == ["connected", "dim"]
                assert (await client.order("counters", instance="a"))["dim"] == 1
                assert (await client.order("counters"))["connect"] == 1
                assert (await client.order("misbehave", step="keep-alive", action="status", value=6)) == {}
                assert (await host.command(0x18)).status == 6
                await client.order("behave")
                assert (await host.command(0x18)).status == 0
                assert (await client.order("disconnect", host=HOST)) == {"connections": 1}
                with pytest.raises((EOFError, OSError)):
                    await host.command(0x18)
            await client.order("down", instance="a")
            with pytest.raises(OSError):  # noqa: PT011 - whichever the system has for a port where nobody listens
                await Host(fabric.instances["a"].port).open()
            await client.order("up", instance="a")
            async with Host(fabric.instances["a"].port):
                pass
            await client.order("forget")
            assert (await client.order("record"))["registered"] == []
            writer.close()
            socket.close()
            # Its task sees the end of the stream.
            await asyncio.sleep(0.05)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ({"order": "lunch"}, "there are"),
        ({"order": "instance", "name": "x"}, "no instance"),
        ({"order": "instance", "name": "cdc", "port": 1}, "nothing to change"),
        ({"order": "add", "nqn": "x"}, "traddr"),
        ({"order": "misbehave", "step": "x", "action": "drop"}, "no step"),
        ({"order": "zone", "name": "z", "host": []}, "no host"),
        ({"order": "page", "size": 3}, "size"),
        ({"order": "load", "referrals": {"a": ["b"]}}, "referral"),
        ({"order": "load", "wishes": []}, "no wishes"),
        ([], "JSON object"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused_with_the_reason(order: object, reason: str) -> None:
    async def scenario() -> None:
        async with serving() as fabric:
            answer = await control._answer(Orders(server_of(fabric)), json.dumps(order).encode())
            assert reason in str(answer["error"])

    asyncio.run(scenario())


def test_the_process(tmp_path: Path) -> None:
    description = {
        "instances": {"one": {"port": 0, "nqn": UNIQUE}, "two": {"port": 0, "dctype": "ddc"}},
        "entries": [{"nqn": "nqn.2024-08.com.example:vol1", "traddr": "192.0.2.1"}],
    }
    (tmp_path / "fabric.json").write_text(json.dumps(description))
    command = [sys.executable, "-m", "tests.cdc", "--fabric", str(tmp_path / "fabric.json")]
    with subprocess.Popen([*command, "--control", str(tmp_path / "c")], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        port = int(line.rpartition(":")[2])

        async def scenario() -> None:
            async with Host(port, subsystem=UNIQUE) as host:
                assert (await host.discover())[1] == 2

        try:
            asyncio.run(scenario())
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0

    shown = subprocess.run([*command, "--announcements"], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert shown.splitlines() == [
        f"avahi-publish --service --subtype _cdc._sub._nvme-disc._tcp one _nvme-disc._tcp 0 p=tcp nqn={UNIQUE}",
        "avahi-publish --service two _nvme-disc._tcp 0 p=tcp nqn=nqn.2014-08.org.nvmexpress.discovery",
    ]


def test_a_description_that_makes_no_sense_ends_the_process_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "fabric.json").write_text('{"instances": {"one": {"colour": 1}}}')
    command = [sys.executable, "-m", "tests.cdc", "--fabric", str(tmp_path / "fabric.json")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "colour" in ended.stderr
    assert "Traceback" not in ended.stderr
