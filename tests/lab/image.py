# SPDX-License-Identifier: Apache-2.0
"""The disk image of the lab's machine, in two layers that are kept under `.cache/lab/`.

The base tree is a Debian with everything the guest needs; it depends on `packages.txt`, `guest/` and this file alone.
The disk is that tree with the current work tree installed by meson, as a packager would, and depends on both.
LAB_SUITE in the environment chooses which Debian.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import lzma
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
LAB = Path(__file__).resolve().parent
CACHE = PROJECT / ".cache" / "lab"
SUITE = os.environ.get("LAB_SUITE", "trixie")
# What of packages.txt a suite does not have.
LACKS: dict[str, frozenset[str]] = {
    "trixie": frozenset(),
    "bookworm": frozenset({"ktls-utils", "nvme-stas", "python3-libnvme"}),
}
DISK_SIZE = 8 << 30

# Installed as Debian ships it, but nothing of it may act by itself beside the daemon under test.
NOT_AT_BOOT = (
    "avahi-daemon.service",
    "avahi-daemon.socket",
    "nvmefc-boot-connections.service",
    "nvmf-autoconnect.service",
    "stacd.service",
    "stafd.service",
    "tlshd.service",
)
# Housekeeping that costs an emulated machine seconds and no scenario needs.
MASKED = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "ldconfig.service",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
    "systemd-pcrmachine.service",
    "systemd-random-seed.service",
    "systemd-tmpfiles-clean.timer",
    "systemd-update-done.service",
    "systemd-update-utmp.service",
    "uuidd.socket",
    "xfs_scrub_all.timer",
    "getty@tty1.service",
)
AT_BOOT = ("lab-agent.service", "lab-journal.service", "lab-network.service", "lab-target.service")
LEFT_OUT = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/locale/*",
    *(
        f"/usr/lib/modules/*/kernel/{folder}/*"
        for folder in (
            "drivers/gpu",
            "drivers/iio",
            "drivers/infiniband/hw",
            "drivers/media",
            "drivers/net/ethernet",
            "drivers/net/wireless",
            "drivers/staging",
            "sound",
        )
    ),
)
# What meson.build installs from.
INSTALLED = ("discoverd", "docs/man", "docs/samples", "meson.build", "packaging", "udev", "units")


class ImageError(Exception):
    """The image could not be built; the message says which step failed and where its log is."""


@dataclasses.dataclass(frozen=True)
class Image:
    """Files to boot from. The disk is never written to: a machine runs on an overlay of its own."""

    disk: Path
    kernel: Path
    initrd: Path


def digest(parts: Iterable[bytes]) -> str:
    result = hashlib.sha256()
    for part in parts:
        result.update(len(part).to_bytes(8, "big"))
        result.update(part)
    return result.hexdigest()[:16]


def file_parts(root: Path, files: Iterable[Path]) -> Iterator[bytes]:
    for file in files:
        yield str(file.relative_to(root)).encode()
        yield str(file.lstat().st_mode & 0o111).encode()
        yield os.readlink(file).encode() if file.is_symlink() else file.read_bytes()


def guest_files() -> list[Path]:
    return sorted(path for path in (LAB / "guest").rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def installed_sources() -> list[Path]:
    """Files of the work tree that `meson install` may put into the guest; it need not be a clone, or root's."""
    found = (path for name in INSTALLED for path in (PROJECT / name, *(PROJECT / name).rglob("*")))
    return sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts)


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """Says on standard error what is being done, and how long it took."""
    started = time.monotonic()
    print(f"lab: {title} ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    except BaseException:
        print(" failed", file=sys.stderr, flush=True)
        raise
    print(f" {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)


# No PYTHONDONTWRITEBYTECODE, no virtual environment and no locale of the caller's may shape the image.
CLEAN = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}


def call(log: str, command: Sequence[str | Path], environment: Mapping[str, str] = CLEAN) -> None:
    """Runs a command, its output in `.cache/lab/log/`. Raises ImageError with the end of it."""
    path = CACHE / "log" / f"{log}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as output:
        output.write(f"+ {' '.join(map(str, command))}\n".encode())
        output.flush()
        try:
            subprocess.run(command, check=True, stdout=output, stderr=output, env=environment)
        except FileNotFoundError as error:
            raise ImageError(f"{command[0]} is not installed; run: make setup") from error
        except subprocess.CalledProcessError as error:
            tail = path.read_text(errors="replace").splitlines()[-15:]
            raise ImageError(
                f"{command[0]} failed with status {error.returncode}; log: {path}\n" + "\n".join(tail)
            ) from error


def in_tree(log: str, tree: Path, *command: str) -> None:
    call(log, ["chroot", tree, *command])


def build_base(tree: Path) -> None:
    listed = (LAB / "packages.txt").read_text().split("\n")
    packages = [line for line in listed if line and line[0] != "#" and line not in LACKS[SUITE]]
    with step(f"base system of {len(packages)} packages ({SUITE})"):
        call(
            "base",
            [
                "mmdebstrap",
                "--variant=minbase",
                f"--include={','.join(packages)}",
                *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT),
                SUITE,
                tree,
            ],
        )
    with step("settings of the base system"):
        for source in guest_files():
            target = tree / source.relative_to(LAB / "guest")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)
        # As udev and systemd would find them at the first boot; made here, they cost a boot nothing.
        (tree / "var/log/journal").mkdir(exist_ok=True)
        (tree / "var/lib/lab-target").mkdir(exist_ok=True)
        not_at_boot = [unit for unit in NOT_AT_BOOT if (tree / "usr/lib/systemd/system" / unit).exists()]
        in_tree("base", tree, "systemctl", "disable", *not_at_boot)
        in_tree("base", tree, "systemctl", "mask", *MASKED)
        in_tree("base", tree, "systemctl", "enable", *AT_BOOT)
        in_tree("base", tree, "systemctl", "set-default", "multi-user.target")
        in_tree("base", tree, "/usr/bin/python3", "-m", "compileall", "-q", "/usr/lib/python3/dist-packages")
        for unneeded in (tree / "boot").glob("initrd.img-*"):
            unneeded.unlink()


def build_initrd(tree: Path) -> None:
    """Puts /boot/initrd.img into the tree: a RAM disk with busybox and the disk's drivers.

    An emulated machine boots seconds faster with it than with one that runs udev.
    """
    (kernel,) = (tree / "usr/lib/modules").iterdir()
    initrd = tree / "boot/initrd.img"
    work = initrd.with_suffix(".tree")
    shutil.rmtree(work, ignore_errors=True)
    for folder in ("bin", "dev", "proc", "sys", "root", "modules"):
        (work / folder).mkdir(parents=True)
    shutil.copy(LAB / "initrd-init", work / "init")
    shutil.copy(tree / "usr/bin/busybox", work / "bin/busybox")
    order: list[str] = []
    for module in ("virtio_pci", "virtio_blk", "ext4"):
        listed = subprocess.run(
            ["chroot", tree, "modprobe", "-S", kernel.name, "--show-depends", module],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        for line in listed.splitlines():
            source = line.removeprefix("insmod").strip()
            name = Path(source).name.removesuffix(".xz")
            if line.startswith("insmod") and name not in order:
                order.append(name)
                packed = (tree / source.removeprefix("/")).read_bytes()
                (work / "modules" / name).write_bytes(lzma.decompress(packed) if source.endswith(".xz") else packed)
    (work / "modules/order").write_text("\n".join(order) + "\n")
    pack = f"cd /boot/{work.name} && find . | cpio --create --format=newc --owner=0:0 --quiet >/boot/{initrd.name}"
    in_tree("initrd", tree, "sh", "-c", pack)
    shutil.rmtree(work)


def install(tree: Path, sources: Iterable[Path]) -> None:
    """Runs meson in the tree on a copy of the sources, as the build of a package would."""
    copy = tree / "usr/src/discoverd"
    for source in sources:
        target = copy / source.relative_to(PROJECT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    in_tree(
        "install",
        tree,
        *("meson", "setup", "--prefix=/usr", "--sysconfdir=/etc", "--localstatedir=/var"),
        *("/usr/src/discoverd.build", "/usr/src/discoverd"),
    )
    in_tree("install", tree, "meson", "install", "--no-rebuild", "-C", "/usr/src/discoverd.build")
    # As a package does after its files are there. Directories in /var are made at the boot.
    in_tree("install", tree, "systemd-sysusers")
    shutil.rmtree(tree / "usr/src")
    (tree / "usr/src").mkdir()


def build_disk(base: Path, disk: Path, sources: Sequence[Path]) -> None:
    tree = disk.with_suffix(".tree")
    partial = disk.with_suffix(".partial")
    shutil.rmtree(tree, ignore_errors=True)
    call("install", ["cp", "--archive", "--link", base, tree])
    try:
        if any(source.name == "meson.build" for source in sources):
            with step("meson install of the work tree"):
                install(tree, sources)
        with step("disk image"):
            partial.unlink(missing_ok=True)
            with partial.open("wb") as file:
                file.truncate(DISK_SIZE)
            lazy = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
            call("disk", ["mkfs.ext4", "-q", "-F", "-L", "lab", "-E", lazy, "-d", tree, partial])
            partial.rename(disk)
    finally:
        shutil.rmtree(tree, ignore_errors=True)


def keep_newest(pattern: str, count: int) -> None:
    found = sorted(CACHE.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in found[count:]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def missing_tools() -> list[str]:
    tools = ("mmdebstrap", "mkfs.ext4", "qemu-system-x86_64", "qemu-img")
    path = "/usr/sbin:/usr/bin:/sbin:/bin"
    return [tool for tool in tools if shutil.which(tool, path=path) is None]


def check() -> None:
    """Raises ImageError with what this machine lacks to build an image, and what to do about it."""
    if SUITE not in LACKS:
        raise ImageError(f"LAB_SUITE={SUITE} is no suite the lab knows; it is one of {', '.join(LACKS)}")
    if os.geteuid() != 0:
        raise ImageError("the lab builds a Debian tree and therefore needs root; run it as root")
    if absent := missing_tools():
        raise ImageError(f"not installed: {', '.join(absent)}; run: make setup")


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Waits until no other process builds."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def base_tree() -> Path:
    """The base tree, built where the cached one does not match. To be called :func:`locked`. Raises ImageError."""
    recipe = [LAB / "packages.txt", LAB / "initrd-init", LAB / "image.py", *guest_files()]
    base = CACHE / f"base-{SUITE}-{digest([SUITE.encode(), *file_parts(LAB, recipe)])}"
    if not base.exists():
        partial = CACHE / "base.partial"
        shutil.rmtree(partial, ignore_errors=True)
        build_base(partial)
        with step("initial RAM disk"):
            build_initrd(partial)
        partial.rename(base)
    os.utime(base)
    keep_newest(f"base-{SUITE}-*", 2)
    return base


def build() -> Image:
    """The image for the work tree as it is now, built where the cached one does not match.

    Processes that ask at once wait for each other. Raises ImageError with what failed or what is missing.
    """
    check()
    with locked():
        base = base_tree()
        sources = installed_sources()
        disk = CACHE / f"disk-{SUITE}-{digest([base.name.encode(), *file_parts(PROJECT, sources)])}.img"
        if disk.exists():
            os.utime(disk)
        else:
            build_disk(base, disk, sources)
        # A machine that starts right now may still open the image before this one.
        keep_newest(f"disk-{SUITE}-*.img", 5)
        (kernel,) = (base / "boot").glob("vmlinuz-*")
        return Image(disk=disk, kernel=kernel, initrd=base / "boot/initrd.img")


def main() -> int:
    try:
        image = build()
    except ImageError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    print(f"lab: image {image.disk.relative_to(PROJECT)} is up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
