# SPDX-License-Identifier: Apache-2.0
"""The ownership registry that all orchestrators of a host share: /run/nvme/registry/nvmeN/{owner,seqnum,…}.

The format is nvme-cli 3's, byte for byte: a directory for each live controller, a file for each attribute,
its value and one line feed, world-readable. ``seqnum`` is /sys/kernel/uevent_seqnum at the time of the
claim; the clean-up udev rule compares it with the removal's. Used by workers, so it imports only what they
may.
"""

import posix

from discoverd import state

ROOT = "/run/nvme/registry"
OWNER = "nvme-ctrl"
# Controllers that firmware asked for keep their owner when we take care of them.
FIRMWARE_OWNER = "nbft"

_SEQNUM = "/sys/kernel/uevent_seqnum"
# Each further try means that another tool wrote in the moment between two system calls.
_TRIES = 100
# By number, because every worker would pay for the errno module.
_EEXIST, _ENOTDIR, _ENOTEMPTY, _ELOOP, _EBADMSG = 17, 20, 39, 40, 74


def valid_device(name: str) -> bool:
    """Tell whether ``name`` is a controller's name as nvme-cli takes it: ``nvme`` and decimal digits, nothing else."""
    digits = name[4:]
    return name[:4] == "nvme" and digits.isascii() and digits.isdigit()


def retrieve(device: str, attribute: str) -> str | None:
    """Return an attribute's value, or None if there is no entry, no such attribute or an empty file.

    One with unprintable characters in it is damaged, and counts as not there; but who wrote such an ``owner`` owns the
    controller all the same. OSError for that, and for anything else: an unreadable registry is not the same as an
    unowned controller.
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
    text = data.decode("utf-8", "replace").rstrip("\r\n")
    if not text.isprintable():
        if attribute == "owner":
            raise OSError(_EBADMSG, "its owner has unprintable characters in it")
        return None
    return text if data else None


def claim(device: str, owner: str, unit: str, adopted: bool = False) -> None:
    """Make the entry of ``device`` anew in one step. Raises OSError.

    Our own attributes are ``unit``, the unit that takes care of it, and ``adopted`` for a controller that
    nobody owned and that no administrator asked us for.

    It is built beside its place and renamed, because the clean-up rule must never see an entry without its
    stamp. An entry that is there already belongs to an earlier controller of the same name, or is ours, and
    goes first.
    """
    _make_directory(ROOT.rpartition("/")[0])
    _make_directory(ROOT)
    temporary = f"{ROOT}/.{device}.tmp.{posix.getpid()}"
    _remove(temporary)
    posix.mkdir(temporary, 0o755)
    try:
        posix.chmod(temporary, 0o755)
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
        for _ in range(_TRIES):
            # Emptied only when the new entry stands: the less time in between, the fewer find none.
            trash = _move_away(device)
            try:
                posix.rename(temporary, f"{ROOT}/{device}")
                return
            except OSError as error:
                # Another tool wrote its entry in between; nvme-cli gives up here, and leaves its own.
                if error.errno not in (_EEXIST, _ENOTEMPTY, _ENOTDIR):
                    raise
            finally:
                _remove(trash)
        raise FileExistsError(_EEXIST, "another tool keeps writing this entry")
    except OSError:
        _remove(temporary)
        raise


def delete(device: str) -> None:
    """Take an entry away in one step, if there is one. Raises OSError."""
    _remove(_move_away(device))


def sweep() -> None:
    """Take away what killed processes have left half-written or half-removed, as far as that can be."""
    try:
        names = posix.listdir(ROOT)
    except OSError:
        return  # There is none yet, or none that anybody could write to.
    for name in names:
        if name[:1] == "." and state.left_behind(name):
            try:
                _remove(f"{ROOT}/{name}")
            except OSError:
                pass  # Nobody takes it for an entry, and the next process that starts tries again.


def _move_away(device: str) -> str:
    """Rename an entry, if there is one, to where nobody takes it for one, and return that path. Raises OSError."""
    for number in range(_TRIES):
        trash = f"{ROOT}/.trash.{device}.{number}.{posix.getpid()}"
        _remove(trash)
        try:
            posix.rename(f"{ROOT}/{device}", trash)
        except FileNotFoundError:
            pass
        except OSError as error:
            # What could not be emptied the last time is in the way.
            if error.errno not in (_EEXIST, _ENOTEMPTY, _ENOTDIR):
                raise
            continue
        return trash
    raise FileExistsError(_EEXIST, f"{ROOT} is full of .trash.{device}.*; remove these")


def _uevent_seqnum() -> str:
    try:
        fd = posix.open(_SEQNUM, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return ""
    try:
        stamp = posix.read(fd, 64).strip()
    finally:
        posix.close(fd)
    return stamp.decode() if stamp.isdigit() else ""


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


def _remove(path: str) -> None:
    """Remove what was moved away, if it is there. Raises OSError.

    Whoever had looked up the entry's path when it was moved may still write into it, nvme-cli by way of a temporary
    file for each attribute. What comes into it for ever is left, and the next process that starts takes it away.
    """
    flags = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC
    for _ in range(_TRIES):
        try:
            fd = posix.open(path, flags)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (_ENOTDIR, _ELOOP):
                raise
            posix.unlink(path)  # Somebody had put a file or a link in the entry's place.
            return
        try:
            for name in posix.listdir(fd):
                try:
                    posix.unlink(name, dir_fd=fd)
                except FileNotFoundError:
                    pass  # Its writer has renamed it, or the udev rule removes entries as well.
                except IsADirectoryError:
                    _remove(f"{path}/{name}")
        finally:
            posix.close(fd)
        try:
            posix.rmdir(path)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != _ENOTEMPTY:
                raise
