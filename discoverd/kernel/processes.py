# SPDX-License-Identifier: Apache-2.0
"""What /proc tells of a process: proc_pid_stat(5), proc_pid_cgroup(5), proc_pid_comm(5). Nothing, once it has ended.

``process`` is its number, or "self". All of it raises OSError for files.SHORTAGES only. Used by workers, so it imports
only what they may.
"""

from discoverd.kernel import files

PROC = "/proc"


def fields(process: int | str) -> list[bytes]:
    """Return the fields of its stat that follow the name, which may have spaces in it: the state is the first."""
    return files.whole(f"{PROC}/{process}/stat").rpartition(b")")[2].split()


def control_groups(process: int | str) -> list[str]:
    """Return lines such as ``0::/system.slice/x.service``, one for each hierarchy."""
    return files.whole(f"{PROC}/{process}/cgroup").decode("utf-8", "surrogateescape").split("\n")


def name(process: int | str) -> str:
    """Return what it is called, at most 15 bytes, which it can set to anything."""
    return files.whole(f"{PROC}/{process}/comm").decode("utf-8", "replace").strip()
