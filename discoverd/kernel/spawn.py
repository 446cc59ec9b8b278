# SPDX-License-Identifier: Apache-2.0
"""Run a program of the system and wait for it. Used by workers, so it imports only what they may."""

import posix

_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
_LIMIT = 4096


def run(*command: str) -> tuple[int, str]:
    """Return a program's exit status (negative: the signal that killed it) and the beginning of what it printed.

    Blocks until it has ended. Raises OSError where it cannot be started.
    """
    read, write = posix.pipe2(posix.O_CLOEXEC)
    try:
        actions = [
            (posix.POSIX_SPAWN_OPEN, 0, "/dev/null", posix.O_RDONLY, 0),
            (posix.POSIX_SPAWN_DUP2, write, 1),
            (posix.POSIX_SPAWN_DUP2, write, 2),
        ]
        pid = posix.posix_spawnp(command[0], list(command), _ENVIRONMENT, file_actions=actions)
    except OSError:
        posix.close(read)
        raise
    finally:
        posix.close(write)
    output = b""
    while chunk := posix.read(read, 4096):
        output = (output + chunk)[:_LIMIT]
    posix.close(read)
    return posix.waitstatus_to_exitcode(posix.waitpid(pid, 0)[1]), output.decode("utf-8", "replace").strip()
