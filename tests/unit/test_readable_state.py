# SPDX-License-Identifier: Apache-2.0
"""Who may read the run-time state: everybody how things are, and nobody but root what can hold a secret."""

import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from discoverd import notify, state, store
from discoverd.worker import cause

from .dhchap_secrets import secret
from .fake_host import DISCOVERY, FIRST, NQN, ONE, SUBSYSTEM, Host, leave_log, quiet, spec_of, until
from .fake_kernel import Kernel, leave_spec
from .log_pages import entry
from .worker_setting import INSTANCE
from .worker_setting import NQN as VOLUME

KEY, CTRL_KEY, LIST_KEY = secret("host"), secret("ctrl"), secret("listed")
# What an administrator meant for a secret, and mistyped.
WRONG = "DHHC-1:00:bWlzdHlwZWQtbWlzdHlwZWQtbWlzdHlwZWQ:"
MISPLACED = "Zm9yZ290dGVuLWtleS13b3Jk"
TLS = "NVMeTLSkey-1:01:dGxzLXRscy10bHMtdGxzLXRscy10bHMtdGxz:"
CONFIGURATION = (
    DISCOVERY
    + FIRST
    + f"kxchap-secret = {KEY}\nkxchap-ctrl-secret = {CTRL_KEY}\n"
    + SUBSYSTEM.format(NQN.format(2)).replace("192.0.2.1", "192.0.2.2")
    + f"kxchap-secret = {WRONG}\n"
    + SUBSYSTEM.format(NQN.format(3)).replace("192.0.2.1", "192.0.2.3")
    + f"tls = true\ntls-key = {TLS}\n"
    + SUBSYSTEM.format(NQN.format(4)).replace("192.0.2.1", "192.0.2.4")
    + f"kxchap-secrett = {MISPLACED}\n"
    + f"[Subsystem]\nnqn = {NQN.format(7)}\nkxchap-secret = {LIST_KEY}\n"
)
SECRETS = (KEY, CTRL_KEY, LIST_KEY, WRONG, MISPLACED, TLS)


def files(root: Path) -> Iterator[Path]:
    return (path for path in root.rglob("*") if not path.is_dir())


def readable(path: Path) -> bool:
    """Tell whether everybody can open it: the file itself, and each directory on the way."""
    way = [one for one in path.parents if one == Path(state.ROOT) or Path(state.ROOT) in one.parents]
    passable = all(one.stat().st_mode & stat.S_IXOTH for one in way)
    return passable and bool(path.stat().st_mode & stat.S_IROTH)


def leaked(path: Path) -> list[str]:
    """Return which secrets stand in a file, also a part of one."""
    text = path.read_bytes().decode(errors="replace")
    # The part that is the key, without what tells its form.
    return [one for one in SECRETS if (re.split(":", one)[2] if ":" in one else one)[:12] in text]


def test_what_everybody_can_read_holds_no_secret(host: Host) -> None:
    old = os.umask(0o077)
    try:
        host.configure(CONFIGURATION)

        async def scenario() -> None:
            # Their first reports would come after the one that is left here.
            await until(lambda: "3 live" in host.status)
            leave_log(entry(NQN.format(7)))
            await until(lambda: any(NQN.format(7) in one for one in host.systemd.started))
            await quiet()

        host.play(scenario)
    finally:
        os.umask(old)
    found = [path for path in files(Path(state.ROOT)) if not stat.S_ISSOCK(path.stat().st_mode)]
    public = [path for path in found if readable(path)]
    assert {path.name for path in public} >= {"plan"}
    assert [(path, leaked(path)) for path in public if leaked(path)] == []
    # And the test can fail: they are there, in files that only root reads.
    assert KEY in spec_of(ONE).option("dhchap_secret")
    closed = {path.name for path in found if leaked(path)}
    assert closed == {"spec"}
    assert all(stat.S_IMODE(path.stat().st_mode) == state.PRIVATE for path in found if path.name == "spec")


def test_wake_socket_and_locks_stay_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "ROOT", str(tmp_path / "run"))
    monkeypatch.setattr(state, "CONTROLLERS", str(tmp_path / "run/controllers"))
    monkeypatch.setattr(state, "WAKE_SOCKET", str(tmp_path / "run/wake"))
    store.prepare().close()
    # Whoever can write to it can have the daemon read reports all the time.
    assert stat.S_IMODE(os.stat(state.WAKE_SOCKET).st_mode) == 0o600
    for directory in (state.ROOT, state.CONTROLLERS):
        assert stat.S_IMODE(os.stat(directory).st_mode) == 0o755


def test_state_of_an_earlier_version_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "ROOT", str(tmp_path / "run"))
    monkeypatch.setattr(state, "CONTROLLERS", str(tmp_path / "run/controllers"))
    monkeypatch.setattr(state, "WAKE_SOCKET", str(tmp_path / "run/wake"))
    folder = Path(state.directory(ONE))
    folder.mkdir(parents=True, mode=0o700)
    for name in ("spec", "report", "confirm"):
        (folder / name).touch(mode=0o600)
    (Path(state.CONTROLLERS) / "a-file-of-somebody").touch(mode=0o600)
    store.prepare().close()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {"spec": 0o600, "report": 0o644, "confirm": 0o600}
    assert stat.S_IMODE((Path(state.CONTROLLERS) / "a-file-of-somebody").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_report_is_for_everybody_whatever_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int
) -> None:
    monkeypatch.setattr(state, "CONTROLLERS", str(tmp_path))
    (tmp_path / ONE).mkdir()
    old = os.umask(umask)
    try:
        notify.Report(ONE).show(notify.View(state.CONNECTING))
        state.write(str(tmp_path / ONE / "spec"), b"")
    finally:
        os.umask(old)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / ONE).iterdir()}
    assert modes == {"report": 0o644, "spec": 0o600}


def test_report_of_a_refused_connect_holds_no_secret(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the kernel says about it, and whatever the secret looks like."""
    # Nobody reads what is told to the service manager.
    monkeypatch.delenv("NOTIFY_SOCKET")
    monkeypatch.setattr(state, "ROOT", str(kernel.root / "run"))
    for given in SECRETS[:4]:
        secrets = [("dhchap_secret", given), ("dhchap_ctrl_secret", CTRL_KEY)]
        spec = leave_spec(INSTANCE, VOLUME)
        spec.options += secrets
        (Path(state.directory(INSTANCE)) / "spec").write_bytes(spec.encode())
        for number in (errno.EINVAL, errno.EKEYREJECTED, errno.EACCES, errno.ENOKEY, errno.EIO):
            error = OSError(number, os.strerror(number))
            text = cause.sentence(error, dict(spec.options))
            report = notify.Report(INSTANCE)
            view = notify.View(state.WAITING)
            view.cause = text
            report.show(view)
            path = Path(state.directory(INSTANCE)) / "report"
            assert (readable(path), leaked(path)) == (True, [])
