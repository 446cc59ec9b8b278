# SPDX-License-Identifier: Apache-2.0
"""Which options the kernel knows: asked once, never waited for, and kept for the workers."""

import asyncio
from pathlib import Path

import pytest

from discoverd import store
from discoverd.kernel import fabrics
from discoverd.supervisor import configuration
from discoverd.supervisor.abilities import Abilities

from .fake_host import FIRST, ONE, Host, quiet, spec_of, until
from .fake_kernel import Kernel, leave_spec, play
from .fake_kernel import until as until_now
from .worker_setting import INSTANCE, NQN

OLD = {"nqn", "transport", "traddr", "trsvcid", "hostnqn", "hostid", "ctrl_loss_tmo"}


def test_supervisor_becomes_ready_while_the_kernel_does_not_answer(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(configuration, "ABILITIES_TIMEOUT_SECONDS", 0.05)
    host.abilities = OLD
    host.idle.clear()
    host.configure(FIRST + "hdr-digest = true\n")

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status and host.told("READY=1"))
        assert dict(spec_of(ONE).options)["hdr_digest"] == ""
        with pytest.raises(fabrics.UnknownAbilitiesError):
            await asyncio.to_thread(fabrics.abilities)
        assert "this kernel knows no" not in caplog.text
        host.idle.set()
        await until(lambda: "this kernel knows no hdr_digest: connecting without" in caplog.text)
        assert await asyncio.to_thread(fabrics.abilities) == OLD

    assert host.play(scenario, asyncio.run) == 0
    assert host.asked == 1


def test_restarted_supervisor_does_not_ask_again(host: Host) -> None:
    host.abilities = OLD
    host.configure(FIRST)

    async def scenario() -> None:
        await until(lambda: host.daemon and host.daemon._configuration.current.abilities == frozenset(OLD))

    assert host.play(scenario, asyncio.run) == 0
    assert host.play(scenario, asyncio.run) == 0
    assert host.asked == 1


def test_kernel_that_does_not_tell_is_asked_once(host: Host) -> None:
    async def scenario() -> None:
        await until(lambda: host.told("READY=1"))
        assert await asyncio.to_thread(fabrics.abilities) is None

    assert host.play(scenario, asyncio.run) == 0
    assert host.play(scenario, asyncio.run) == 0
    assert host.asked == 1


@pytest.mark.parametrize(("known", "unique"), [(None, False), (OLD, False), ({*OLD, "discovery"}, True)])
def test_announced_nqn_is_asked_for_where_the_kernel_says_that_it_takes_it(
    host: Host, known: set[str] | None, unique: bool
) -> None:
    """A kernel before 5.16 refuses each connect with the option, and one before 5.17 does not say whether it does."""
    host.abilities = known

    async def scenario() -> None:
        await until(lambda: host.daemon and host.daemon._configuration.current.host.hostnqn)
        await until(lambda: host.daemon and host.daemon._inventory.mdns.unique_nqn is unique)

    assert host.play(scenario, asyncio.run) == 0
    assert host.play(scenario, asyncio.run) == 0


def test_another_loading_of_the_module_is_asked_at_the_next_round(host: Host) -> None:
    host.abilities = OLD
    host.configure(FIRST)

    async def scenario() -> None:
        await until(lambda: "1 live" in host.status)
        host.module, host.abilities = 4712, {*OLD, "tos"}
        with pytest.raises(fabrics.UnknownAbilitiesError):
            await asyncio.to_thread(fabrics.abilities)
        assert host.daemon
        host.daemon._changes.wake()
        await until(lambda: host.asked == 2)
        await until(lambda: host.daemon and "tos" in (host.daemon._configuration.current.abilities or ()))
        assert await asyncio.to_thread(fabrics.abilities) == {*OLD, "tos"}

    assert host.play(scenario, asyncio.run) == 0


def test_module_that_is_loaded_later_is_asked(host: Host) -> None:
    (host.root / "nvme-fabrics").unlink()
    host.module = 0

    async def scenario() -> None:
        await until(lambda: host.told("READY=1"))
        assert host.asked == 0
        (host.root / "nvme-fabrics").touch()
        host.module = 4711
        assert host.daemon
        host.daemon._changes.wake()
        await until(lambda: host.asked)

    assert host.play(scenario, asyncio.run) == 0


def test_answer_that_cannot_be_written_is_said_once_and_made_up_for(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    (host.root / "run").mkdir()
    # A directory where the file belongs: nothing can be renamed there.
    (host.root / "run/abilities").mkdir()
    host.abilities = OLD

    async def scenario() -> None:
        await until(lambda: "workers cannot connect" in caplog.text)
        assert host.daemon
        host.daemon._changes.wake()
        await until(lambda: host.asked > 1)
        (host.root / "run/abilities").rmdir()
        host.daemon._changes.wake()
        await until(lambda: host.daemon and host.daemon._configuration.current.abilities)
        await quiet()

    assert host.play(scenario, asyncio.run) == 0
    assert caplog.text.count("workers cannot connect") == 1


@pytest.mark.parametrize("content", [b"", b"discoverd-abilities 1\nmodule=4711\noption=tos\n", b"\xff\xfe"])
def test_damaged_file_counts_as_not_there(host: Host, content: bytes) -> None:
    (host.root / "run").mkdir()
    (host.root / "run/abilities").write_bytes(content)
    with pytest.raises(fabrics.UnknownAbilitiesError):
        fabrics.abilities()
    store.write_abilities(4711, ["tos"])
    assert fabrics.abilities() == {"tos"}
    assert (host.root / "run/abilities").stat().st_mode & 0o077 == 0


def test_device_that_is_missing_is_named(host: Host) -> None:
    (host.root / "nvme-fabrics").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        fabrics.abilities()
    assert caught.value.filename == str(host.root / "nvme-fabrics")


def test_module_is_told_by_its_directory_in_sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fabrics, "_MODULE", f"{tmp_path}/nvme-fabrics/")
    assert fabrics.module() == 0
    (tmp_path / "nvme-fabrics").mkdir()
    assert fabrics.module() == (tmp_path / "nvme-fabrics").stat().st_ino


def test_look_does_not_wait_for_an_answer(host: Host) -> None:
    host.idle.clear()
    (host.root / "run").mkdir()

    async def main() -> None:
        one = Abilities(asyncio.to_thread, lambda: None)
        for _ in range(3):
            await asyncio.wait_for(one.look(), 5)
        await asyncio.to_thread(host.idle.set)
        await one.look(5)
        assert host.asked == 1

    asyncio.run(main())


def test_worker_waits_until_it_is_known_what_the_kernel_knows(kernel: Kernel) -> None:
    kernel.unknown = True

    def act() -> None:
        until_now(lambda: "has not said yet" in kernel.status or "busy" in kernel.status)
        assert kernel.written == []
        kernel.unknown = False
        until_now(lambda: kernel.status == "live nvme0")

    assert play(INSTANCE, kernel, act, leave_spec(INSTANCE, NQN)) == 0
