# SPDX-License-Identifier: Apache-2.0
"""Discovery controllers of `tests/cdc` in a machine, in the network of its target."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.lab.machine import LabError, Machine

SOURCES = Path(__file__).parent.parent / "cdc"
FOLDER = "/run/lab-cdc"
UNIT = "lab-cdc.service"
ADDRESS, PORT = "192.0.2.1", 8009
# Standard input goes to the socket, one line comes back; no module that would take time to load.
CLIENT = """
import _socket, posix
order = b""
while part := posix.read(0, 65536):
    order += part
control = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
control.connect("/run/lab-cdc/control")
while order:
    order = order[control.send(order):]
answer = b""
while not answer.endswith(b"\\n"):
    part = control.recv(65536)
    if not part:
        raise SystemExit("the CDC went away")
    answer += part
while answer:
    answer = answer[posix.write(1, answer):]
"""


def entry(nqn: str, traddr: str = ADDRESS, trsvcid: str = "4420", **more: Any) -> dict[str, Any]:
    """A subsystem as `add` and the fabric's `entries` take it."""
    return {"nqn": nqn, "traddr": traddr, "trsvcid": trsvcid} | more


class Cdc:
    """A fabric of discovery controllers that runs in the machine. Use it as a context, or `start` and `stop` it.

    The description is that of tests/cdc/README.md; instances listen on 192.0.2.1 where it names no address. The
    default is one CDC at 192.0.2.1:8009.
    """

    def __init__(self, machine: Machine, **fabric: Any) -> None:
        self.machine = machine
        instances: Mapping[str, Mapping[str, Any]] = fabric.pop("instances", {"cdc": {}})
        self._fabric = fabric | {
            "instances": {name: {"address": ADDRESS, "port": PORT, **values} for name, values in instances.items()}
        }

    def __enter__(self) -> "Cdc":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, **fabric: Any) -> None:
        """Returns when every instance listens. What an earlier start had on record is gone.

        ``fabric`` takes the place of what the description has, this time.
        """
        self.machine.run(f"mkdir -p {FOLDER} && tar -xmC {FOLDER}", data=_archive())
        self.machine.put(f"{FOLDER}/fabric.json", json.dumps(self._fabric | fabric))
        program = f"/usr/bin/python3 -m cdc --fabric {FOLDER}/fabric.json --control {FOLDER}/control"
        self.machine.run(
            f"systemctl reset-failed {UNIT} 2>/dev/null; systemd-run --quiet --unit={UNIT} --collect "
            f"--property=Type=notify --property=NotifyAccess=all --property=LimitNOFILE=65536 "
            f"--property=NetworkNamespacePath=/run/netns/tgt --setenv=PYTHONPATH={FOLDER} {program}"
        )

    def stop(self) -> None:
        """Ends it; does nothing where it does not run."""
        self.machine.run(f"systemctl stop {UNIT} 2>/dev/null", check=False)

    def kill(self) -> None:
        """Ends it without a word to anybody."""
        self.machine.run(f"systemctl kill --signal=KILL {UNIT}")

    def order(self, order: str, **words: Any) -> dict[str, Any]:
        """Carry out one order and return its answer. Raises LabError where it makes no sense."""
        line = json.dumps({"order": order} | words).encode() + b"\n"
        result = self.machine.run(["/usr/bin/python3", "-I", "-S", "-c", CLIENT], data=line)
        answer: dict[str, Any] = json.loads(result.stdout)
        if "error" in answer:
            raise LabError(f"the CDC refuses {order}: {answer['error']}")
        return answer

    def counter(self, name: str, instance: str | None = None) -> int:
        """How often something happened: a step's name, or log-reads, events, refused, lost, shutdown, timeouts."""
        return int(self.order("counters", instance=instance).get(name, 0))

    def registered(self, instance: str | None = None) -> dict[str, dict[str, Any]]:
        """Who is registered now: host NQN to what it said."""
        return {told["nqn"]: told for told in self.order("record", instance=instance)["registered"]}

    def history(self, what: str | None = None, instance: str | None = None) -> list[dict[str, Any]]:
        """What happened, in order: connected, refused, dim, dim-invalid, shutdown, lost."""
        notes: list[dict[str, Any]] = self.order("record", what=what, instance=instance)["history"]
        return notes

    def connections(self, instance: str = "cdc") -> list[dict[str, Any]]:
        """The hosts that are connected now."""
        found: list[dict[str, Any]] = self.order("status")["instances"][instance]["connections"]
        return found


def _archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(SOURCES.glob("*.py")):
            archive.add(path, f"cdc/{path.name}")
    return buffer.getvalue()
