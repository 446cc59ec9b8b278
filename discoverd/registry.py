# SPDX-License-Identifier: Apache-2.0
"""The ownership registry that all orchestrators of a host share: /run/nvme/registry/nvmeN/{owner,seqnum,…}.

The format is nvme-cli 3's, byte for byte: a directory for each live controller, a file for each attribute,
its value and one line feed, world-readable. ``seqnum`` is /sys/kernel/uevent_seqnum at the time of the
claim; the clean-up udev rule compares it with the removal's. Used by workers, so it imports only what they
may.
"""

import posix

ROOT = "/run/nvme/registry"
OWNER = "nvme-ctrl"
# Controllers that firmware asked for keep their owner when we take care of them.
FIRMWARE_OWNER = "nbft"

_SEQNUM = "/sys/kernel/uevent_seqnum"


def valid_device(name: str) -> bool:
    """Tell whether ``name`` is a controller's name as nvme-cli takes it: ``nvme`` and decimal digits, nothing else."""
    digits = name[4:]
    return name[:4] == "nvme" and digits.isascii() and digits.isdigit()


def retrieve(device: str, attribute: str) -> str | None:
    """Return an attribute's value, or None if there is no entry, no such attribute or an empty file.

    OSError for anything else: an unreadable registry is not the same as an unowned controller.
    """
    if not valid_device(device):
        return None
    try:
        fd = posix.open(f"{ROOT}/{device}/{attribute}", posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        data = posix.read(fd, 4096)
    finally:
        posix.close(fd)
    return data.decode("utf-8", "replace").rstrip("\r\n") if data else None


def claim(device: str, owner: str, unit: str, adopted: bool = False) -> None:
    """Make the entry of ``device`` anew in one step. Raises OSError.

    Our own attributes are ``unit``, the unit that takes care of it, and ``adopted`` for a controller that
    nobody owned and that no administrator asked us for.

    It is built beside its place and renamed, because the clean-up rule must never see an entry without its
    stamp. An entry that is there already belongs to an earlier controller of the same name, or is ours, and
    goes first.
    """
    _make_directory("/run/nvme")
    _make_directory(ROOT)
    temporary = f"{ROOT}/.{device}.tmp.{posix.getpid()}"
    _remove_tree(temporary)
    posix.mkdir(temporary, 0o755)
    posix.chmod(temporary, 0o755)
    try:
        for attribute, value in (
            ("seqnum", _uevent_seqnum()),
            ("owner", owner),
            ("unit", unit),
            ("adopted", "yes" if adopted else ""),
        ):
            # A malformed stamp makes the clean-up rule remove the entry at once: better none than an empty
            # one.
            if value:
                _write(f"{temporary}/{attribute}", value)
        for _ in range(3):
            delete(device)
            try:
                posix.rename(temporary, f"{ROOT}/{device}")
                return
            except FileExistsError:
                pass  # Another tool wrote its entry in between; nvme-cli gives up here, and leaves its own.
            except OSError as error:
                if error.errno != 39:  # ENOTEMPTY: the same
                    raise
        raise FileExistsError(17, "another tool keeps writing this entry")
    except OSError:
        _remove_tree(temporary)
        raise


def delete(device: str) -> None:
    """Take an entry away in one step, if there is one. Raises OSError."""
    trash = f"{ROOT}/.trash.{device}.{posix.getpid()}"
    _remove_tree(trash)
    try:
        posix.rename(f"{ROOT}/{device}", trash)
    except FileNotFoundError:
        return
    _remove_tree(trash)


def _uevent_seqnum() -> str:
    try:
        fd = posix.open(_SEQNUM, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return posix.read(fd, 64).decode().strip()
    finally:
        posix.close(fd)


def _write(path: str, value: str) -> None:
    fd = posix.open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o644)
    try:
        posix.fchmod(fd, 0o644)
        posix.write(fd, value.encode() + b"\n")
    finally:
        posix.close(fd)


def _make_directory(path: str) -> None:
    try:
        posix.mkdir(path, 0o755)
        posix.chmod(path, 0o755)
    except FileExistsError:
        pass  # Whoever made it first did so for all orchestrators.


def _remove_tree(path: str) -> None:
    try:
        names = posix.listdir(path)
    except FileNotFoundError:
        return
    for name in names:
        try:
            posix.unlink(f"{path}/{name}")
        except FileNotFoundError:
            pass  # The udev rule removes entries as well.
    try:
        posix.rmdir(path)
    except FileNotFoundError:
        pass
