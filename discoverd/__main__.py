# SPDX-License-Identifier: Apache-2.0
"""The command ``discoverd``: the supervisor; with ``--check`` a look at the configuration, with ``--reload`` an order
to the supervisor that runs.
"""

import argparse
import asyncio
import importlib.util
import os
import signal
import sys
from pathlib import Path

from discoverd import packages, state
from discoverd.check import check
from discoverd.supervisor import lock, reload
from discoverd.systemd import journal
from discoverd.systemd.agent_process import AGENT, AgentProcess
from discoverd.version import VERSION

LIBEXEC = "/usr/libexec/discoverd"
# A service that is restarted begins when the one before has ended; one that an administrator is just ending need not.
LOCK_TIMEOUT_SECONDS = 5.0
SERVICE = "discoverd.service"
SEE, START, RESTART = (f"systemctl {verb} discoverd" for verb in ("status", "start", "restart"))


class StartError(Exception):
    """This process must not, or cannot, be the supervisor; the text is a sentence that says why and what to type."""


def main(libexec: str = LIBEXEC) -> int:
    """Run what the command line asks for; ``libexec`` has the launchers of the other processes.

    Returns the exit status.
    """
    parser = argparse.ArgumentParser(
        prog="discoverd",
        description="Keeps one systemd unit per NVMe over Fabrics controller. See discoverd(8).",
    )
    parser.add_argument("--version", action="version", version=f"discoverd {VERSION}")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument(
        "--check",
        nargs="*",
        metavar="FILE",
        type=Path,
        help="check the configuration, or those that these files belong to, and exit: 0 without errors, 1 with",
    )
    modes.add_argument(
        "--reload",
        action="store_true",
        help="have the daemon read its configuration, as systemctl reload does: 0 if it has taken it, 1 if not",
    )
    arguments = parser.parse_args()
    if arguments.check is not None:
        text, status = check(arguments.check)
        print(text, end="")  # noqa: T201
        return status
    try:
        return _reload() if arguments.reload else _supervise(libexec)
    except (StartError, reload.ReloadError) as error:
        journal.complain(str(error))
        return 1


def _reload() -> int:
    """Have the supervisor reload. Returns the exit status. Raises ReloadError if it has not taken its configuration."""
    try:
        reload.ask()
    except OSError as error:
        again = "as root: systemctl reload discoverd"
        raise reload.ReloadError(f"discoverd cannot be told: {error.strerror}; {again}") from None
    return 0


def _supervise(libexec: str) -> int:
    """Be the supervisor of this host. Returns the exit status. Raises StartError if that is not to be."""
    if os.geteuid():
        raise StartError(f"discoverd is a service of root's; to see it: {SEE}; to start it, as root: {START}")
    managed = "NOTIFY_SOCKET" in os.environ
    try:
        if not managed and (os.isatty(0) or os.isatty(2)):
            lock.check()
            raise StartError(f"discoverd is a service and does not run in a terminal; to start it: {START}")
        # Who holds the lock is sent it for a reload, and what it would read anew it has not read yet.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        lock.take(LOCK_TIMEOUT_SECONDS if managed else 0.0)
    except lock.HeldError as error:
        raise StartError(_running_already(error.pid)) from None
    except OSError as error:
        what = "free space there, or mount it writable, then"
        raise StartError(f"discoverd cannot use {state.ROOT}: {error.strerror}; {what}: {START}") from None
    try:
        # Only the unit agent imports it, and would end over and over.
        if importlib.util.find_spec("pystemd") is None:
            raise ModuleNotFoundError("No module named 'pystemd'", name="pystemd")
        # It takes as long to start as what follows.
        agent = AgentProcess(libexec + AGENT)
        # Here, because the check must work without the D-Bus and systemd packages.
        from discoverd.supervisor.daemon import Supervisor
    except ImportError as error:
        raise StartError(f"discoverd cannot start: {packages.missing(error)}; then: {START}") from error
    except OSError as error:
        raise StartError(f"discoverd cannot start {libexec + AGENT}: {error.strerror}; then: {START}") from None
    return asyncio.run(Supervisor(libexec, agent).run())


def _running_already(pid: int) -> str:
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_text(errors="replace")
    except OSError:
        groups = ""  # It has ended by now, or is hidden.
    if f"/{SERVICE}\n" in groups or not groups:
        return f"discoverd is running already, as PID {pid} ({SERVICE}); to see it: {SEE}; to restart it: {RESTART}"
    return f"discoverd is running already, as PID {pid} and not as {SERVICE}; to change that: kill {pid} && {START}"


if __name__ == "__main__":
    sys.exit(main())
