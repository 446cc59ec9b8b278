# SPDX-License-Identifier: Apache-2.0
"""Lint and unit tests under the Python of the Debian that LAB_SUITE names, where this host is another one.

They run in a copy of the lab's base tree, with the tools of the host's virtual environment in the same versions.
Arguments go to pytest.
"""

import fcntl
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.lab import image
from tests.lab.image import CACHE, PROJECT, SUITE, ImageError, call, in_tree, step

VENV = "/opt/venv"
SOURCES = "/opt/discoverd"
REQUIREMENTS = PROJECT / "tests/requirements.txt"
NOT_COPIED = (".cache", ".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "build")
# A mount namespace of its own. Where the root is no mount, as in a chroot, unshare cannot keep its mounts from the host
# it came from: so the tree becomes a mount, and private with all in it, and goes before the process does.
UNSHARE = ("unshare", "--mount", "--propagation", "unchanged")
ENTER = """
leave() { mount --make-rprivate "$0" && umount --lazy "$0"; }
trap 'exit 130' INT TERM HUP
trap leave EXIT
mount --bind "$0" "$0" || exit 1
mount --make-private "$0" && mount -t proc proc "$0/proc" && mount -t sysfs sysfs "$0/sys" &&
    mount --rbind /dev "$0/dev" && mount --make-rprivate "$0" && chroot "$0" "$@"
exit $?
"""


def build_tree(base: Path, tree: Path) -> None:
    """Makes a copy of the base tree, of links, with the tools of tests/requirements.txt in it."""
    partial = CACHE / "python.partial"
    shutil.rmtree(partial, ignore_errors=True)
    with step(f"copy of the base system for unit tests ({SUITE})"):
        call("python", ["cp", "--archive", "--link", base, partial])
        in_tree("python", partial, "/usr/bin/python3", "-m", "venv", "--without-pip", "--system-site-packages", VENV)
        packages = site_packages(partial)
        # All of them by name: pip resolves nothing for another Python where a package has only sources.
        frozen = [sys.executable, "-m", "pip", "freeze", "--local"]
        listed = partial / "opt/requirements.txt"
        listed.write_bytes(subprocess.run(frozen, check=True, stdout=subprocess.PIPE).stdout)
        options: list[str | Path] = [
            "--no-deps",
            "--no-compile",
            "--python-version",
            version_of(packages),
            "--requirement",
            listed,
        ]
        # How to reach an index may stand in the caller's environment.
        call("python", [sys.executable, "-m", "pip", "install", "--target", packages, *options], os.environ)
        partial.rename(tree)


def site_packages(tree: Path) -> Path:
    (found,) = tree.glob(f"{VENV[1:]}/lib/python3*/site-packages")
    return found


def version_of(packages: Path) -> str:
    return packages.parent.name.removeprefix("python")


def clear_mounts() -> None:
    """Unmounts what a run that was killed has left on a tree: with it, to remove the tree is to remove /dev."""
    trees = f"{CACHE.resolve()}/python-"
    targets = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for target in reversed([one for one in targets if one.startswith(trees)]):
        # Private first, so that nothing of the host's goes with it.
        subprocess.run(["mount", "--make-private", target], check=True)
        subprocess.run(["umount", "--lazy", target], check=True)


def run(tree: Path, command: Sequence[str]) -> int:
    print("+", *command, flush=True)
    environment = {"PATH": f"{VENV}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}
    whole = ["sh", "-c", f'cd {SOURCES} && exec "$@"', "sh", *command]
    return subprocess.run([*UNSHARE, "sh", "-c", ENTER, tree, *whole], env=environment, check=False).returncode


def failed(error: Exception) -> int:
    print(f"other_python: {error}", file=sys.stderr)
    return 1


def main() -> int:
    if platform.freedesktop_os_release().get("VERSION_CODENAME") == SUITE:
        print(f"other_python: skipped, because this host is a Debian {SUITE} itself")
        return 0
    try:
        image.check()
    except ImageError as error:
        return failed(error)
    if subprocess.run([*UNSHARE, "true"], check=False).returncode:
        print("other_python: skipped, because tests need /proc, and this host lets nobody mount it into a directory")
        return 0
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "python.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            clear_mounts()
            with image.locked():
                base = image.base_tree()
                parts = (base.name.encode(), REQUIREMENTS.read_bytes(), Path(__file__).read_bytes())
                tree = CACHE / f"python-{SUITE}-{image.digest(parts)}"
                if not tree.exists():
                    build_tree(base, tree)
                os.utime(tree)
                image.keep_newest(f"python-{SUITE}-*", 1)
        except (ImageError, subprocess.CalledProcessError) as error:
            return failed(error)
        copy = tree / SOURCES[1:]
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(PROJECT, copy, ignore=shutil.ignore_patterns(*NOT_COPIED))
        python = f"{VENV}/bin/python"
        commands = (
            [python, "-m", "ruff", "check", "."],
            [python, "-m", "mypy", "--python-version", version_of(site_packages(tree))],
            [python, "-m", "pytest", "tests/unit", *sys.argv[1:]],
        )
        return next((status for command in commands if (status := run(tree, command))), 0)


if __name__ == "__main__":
    sys.exit(main())
