# SPDX-License-Identifier: Apache-2.0
"""Another path is one that answers."""

import errno
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from discoverd.kernel import admin, paths
from discoverd.kernel.usage import User

from .fake_storage import Storage, install

DATA = [User("mount", "/data")]


class Controllers:
    """What answers an admin command, by device: True, an error, or never, until the end of the test."""

    def __init__(self) -> None:
        self.answers: dict[str, Exception | bool] = {}
        self.asked: list[str] = []
        self.over = threading.Event()

    def session(self, device: str, seconds: float) -> "Session":
        # The kernel must not take one for dead that is only slow.
        assert seconds >= 30
        return Session(self, device)


class Session:
    def __init__(self, controllers: Controllers, device: str) -> None:
        self._controllers = controllers
        self._device = device

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def send(self, opcode: int, data: bytearray, cns: int) -> int:
        assert (opcode, len(data), cns) == (6, 4096, 1)
        self._controllers.asked.append(self._device)
        answer = self._controllers.answers[self._device]
        if isinstance(answer, Exception):
            raise answer
        if not answer:
            self._controllers.over.wait(10)
        return 0


@pytest.fixture
def controllers(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Controllers()
    monkeypatch.setattr(admin, "Session", made.session)
    yield made
    made.over.set()


def test_answering_path_counts(controllers: Controllers) -> None:
    controllers.answers = {"nvme1": True, "nvme2": admin.RefusedError(2)}
    assert paths.fault([{"nvme1"}, {"nvme2"}]) is None


def test_none_at_all_is_not_asked_for(controllers: Controllers) -> None:
    assert paths.fault([{"nvme1"}, set()]) == ""
    assert controllers.asked == []


@pytest.mark.parametrize("answer", [OSError(errno.ENXIO, "No such device"), admin.AdminError("took too long")])
def test_failing_path_does_not_count(controllers: Controllers, answer: Exception) -> None:
    controllers.answers = {"nvme1": answer}
    assert paths.fault([{"nvme1"}]) == ", and its other path nvme1 does not answer"


def test_silent_path_does_not_count(controllers: Controllers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "ANSWER_TIMEOUT_SECONDS", 1)
    controllers.answers = {"nvme1": False, "nvme2": False, "nvme3": True}
    began = time.monotonic()
    assert paths.fault([{"nvme1", "nvme2"}, {"nvme3"}]) == ", and nvme1, nvme2 do not answer"
    assert time.monotonic() - began < 5


def test_one_of_many_is_enough(controllers: Controllers) -> None:
    """Nobody waits for the others."""
    controllers.answers = {"nvme1": False, "nvme2": True}
    began = time.monotonic()
    assert paths.fault([{"nvme1", "nvme2"}]) is None
    assert time.monotonic() - began < paths.ANSWER_TIMEOUT_SECONDS


def test_others_with_native_multipath(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(tmp_path)
    install(storage, monkeypatch)
    for device, state in (("nvme0", "live"), ("nvme1", "live"), ("nvme2", "connecting")):
        storage.controller(device, state=state)
    storage.namespace("nvme0n1", "nvme0", "nvme1", "nvme2")
    storage.namespace("nvme0n2", "nvme0")
    assert paths.others("nvme0", {"nvme0n1": DATA, "nvme0n2": DATA}) == [{"nvme1"}, set()]


def test_others_under_dm_multipath(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(tmp_path)
    install(storage, monkeypatch)
    for device, state in (("nvme0", "live"), ("nvme1", "live"), ("nvme2", "connecting")):
        storage.controller(device, state=state)
        storage.plain_namespace(device + "n1", device)
    storage.device("dm-0", "nvme0n1", "nvme1n1", "nvme2n1")
    storage.mapped("dm-0", "mpath-uuid.1")
    assert paths.others("nvme0", {"nvme0n1": DATA}) == [{"nvme1"}]
    above = User("process", "/dev/dm-0", 7, "postgres")
    assert paths.others("nvme0", {"nvme0n1": [above]}) == [{"nvme1"}]
    # What has one of the paths itself open is not helped by the others.
    below = User("process", "/dev/nvme0n1", 7, "postgres")
    assert paths.others("nvme0", {"nvme0n1": [*DATA, below]}) == [set()]
