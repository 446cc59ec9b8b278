# SPDX-License-Identifier: Apache-2.0
"""The block devices that lie on a controller's namespaces, read from sysfs, and what a block device lies on.

Up: partitions, device mapper (LVM, LUKS, multipath) and MD through ``holders``, loop devices through their backing
file. Down: the same, through ``slaves``. Used by workers, so it imports only what they may.
"""

import _struct
import fcntl
import posix

from discoverd.kernel import mounts, timeout
from discoverd.kernel.files import SHORTAGES
from discoverd.state import exists

SYS = "/sys"
DEV = "/dev"
# The types of device files (S_IFBLK, S_IFCHR).
BLOCK, _CHARACTER = 0o060000, 0o020000
# ANA states in which a path takes I/O (NVMe Base, Asymmetric Namespace Access); '' where the subsystem has no ANA.
_ANA_USABLE = ("", "optimized", "non-optimized")
# LOOP_GET_STATUS64 of linux/loop.h, and the size of its struct loop_info64, which begins with the numbers of the file
# system's device, the inode, and the device that a backing device file stands for.
_LOOP_STATUS, _LOOP_INFO_SIZE, _LOOP_INFO = 0x4C05, 232, "=QQQ"
_EIO = 5
# Seconds that the file system under a loop device has to answer.
_ANSWER_TIMEOUT_SECONDS = 1


def namespaces(device: str) -> list[str]:
    """Return the block devices, such as ``nvme0n1``, whose I/O can go through the controller ``device``.

    With native multipath a controller has a hidden ``nvme<subsystem>c<controller>n<namespace>`` for each, and the block
    device belongs to the subsystem; otherwise the block device is the controller's own.
    """
    found = []
    for entry in _entries(f"{SYS}/class/nvme/{device}"):
        parts = _namespace_parts(entry)
        if parts is not None and exists(f"{SYS}/class/block/nvme{parts[0]}n{parts[2]}"):
            found.append(f"nvme{parts[0]}n{parts[2]}")
    return sorted(found)


def controllers(namespace: str) -> list[str]:
    """Return all controllers, in whatever state, through which the I/O of a namespace can go."""
    folder = f"{SYS}/class/block/{namespace}/device"
    if exists(folder + "/transport"):
        return [posix.readlink(folder).rpartition("/")[2]]
    parts = _namespace_parts(namespace)
    if parts is None:
        return []
    subsystem, _, number = parts
    return sorted(
        entry
        for entry in _entries(folder)
        if entry[:4] == "nvme"
        and entry[4:].isdigit()
        and exists(f"{SYS}/class/nvme/{entry}/nvme{subsystem}c{entry[4:]}n{number}")
    )


def usable_paths(namespace: str) -> list[str]:
    """Return the controllers through which a namespace takes I/O now: live ones that ANA does not forbid."""
    parts = _namespace_parts(namespace)
    usable = []
    for device in controllers(namespace):
        folder = f"{SYS}/class/nvme/{device}"
        path = f"{folder}/nvme{parts[0]}c{device[4:]}n{parts[2]}" if parts else ""
        if _text(folder + "/state") == "live" and _text(path + "/ana_state") in _ANA_USABLE:
            usable.append(device)
    return usable


def siblings(namespace: str) -> set[str]:
    """Return the other namespaces, each with a controller of its own, that dm-multipath takes for paths to the same.

    Hosts without native multipath have those.
    """
    found: set[str] = set()
    for holder in _entries(f"{SYS}/class/block/{namespace}/holders"):
        folder = f"{SYS}/class/block/{holder}"
        if _text(folder + "/dm/uuid")[:6] == "mpath-":
            found.update(name for name in _entries(folder + "/slaves") if _namespace_parts(name) is not None)
    return found - {namespace}


def transports(namespace: str) -> set[str]:
    """Return the transports of all controllers of a namespace, such as ``tcp`` or ``pcie``."""
    return {_text(f"{SYS}/class/nvme/{device}/transport") for device in controllers(namespace)}


def parts(name: str) -> dict[str, bool]:
    """Return the block devices on which one, or the disk of a partition, was made, and whether each is still there.

    Device mapper and MD keep a device that was taken away from under them, and the kernel keeps its name for as long:
    the link to it in ``slaves`` leads nowhere for good.
    """
    folder = f"{SYS}/class/block/{name}"
    folder += "/../slaves" if exists(folder + "/partition") else "/slaves"
    return {entry: exists(f"{folder}/{entry}/") for entry in _entries(folder)}


def is_whole(name: str) -> bool:
    """Tell whether all that a block device lies on is still there."""
    return all(there and is_whole(part) for part, there in parts(name).items())


def stack(namespace: str, on_loops: "dict[str, list[str]] | None" = None) -> dict[str, list[str]]:
    """Return all block devices on a namespace, itself included, each with those that have claimed it (its holders).

    Who asks for many gives what :func:`loops` has returned a moment ago. Raises OSError as that does.
    """
    over = loops() if on_loops is None else on_loops
    found: dict[str, list[str]] = {}
    waiting = [namespace]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        folder = f"{SYS}/class/block/{name}"
        found[name] = _entries(folder + "/holders")
        waiting += found[name] + over.get(_text(folder + "/dev"), []) + partitions(name)
    return found


def partitions(name: str) -> list[str]:
    """Return the partitions of a block device."""
    folder = f"{SYS}/class/block/{name}"
    return [entry for entry in _entries(folder) if exists(f"{folder}/{entry}/partition")]


def number(name: str) -> str:
    """Return the device number of a block device, as ``major:minor``; '' if there is none of this name."""
    return _text(f"{SYS}/class/block/{name}/dev")


def size(name: str) -> int:
    """Return the size of a block device in bytes, 0 if there is none of this name."""
    sectors = _text(f"{SYS}/class/block/{name}/size")
    # Of 512 bytes, whatever the device's are.
    return int(sectors) * 512 if sectors.isdigit() else 0


def title(name: str) -> str:
    """Return what a block device is called where people name it: that of device mapper has a name beside dm-0."""
    return _text(f"{SYS}/class/block/{name}/dm/name") or name


def ana_state(device: str, namespace: str) -> str:
    """Return the ANA state of a namespace through a controller, '' where there is none."""
    parts = _namespace_parts(namespace)
    return _text(f"{SYS}/class/nvme/{device}/nvme{parts[0]}c{device[4:]}n{parts[2]}/ana_state") if parts else ""


def nodes(name: str) -> list[tuple[int, str, str]]:
    """Return the device files of a block device: type (S_IFBLK or S_IFCHR), number, path.

    A namespace has a generic character device as well, through which it can be read and written.
    """
    found = [(BLOCK, number(name), f"{DEV}/{name.replace('!', '/')}")]
    if _namespace_parts(name) is not None:
        generic = "ng" + name[4:]
        found.append((_CHARACTER, _text(f"{SYS}/class/nvme-generic/{generic}/dev"), f"{DEV}/{generic}"))
    return [one for one in found if one[1]]


def below(number: str) -> set[str]:
    """Return the NVMe namespaces on which the block device ``major:minor`` lies, itself included."""
    found: set[str] = set()
    seen: set[str] = set()
    waiting = [number]
    while waiting:
        number = waiting.pop()
        if number in seen:
            continue
        seen.add(number)
        folder = f"{SYS}/dev/block/{number}"
        try:
            path = posix.readlink(folder)
        except OSError:
            continue  # No block device: a network file system, or one that lives in memory.
        if exists(folder + "/partition"):
            waiting.append(_text(folder + "/../dev"))
            continue
        name = path.rpartition("/")[2]
        if _namespace_parts(name) is not None:
            found.add(name)
        waiting += [_text(f"{folder}/slaves/{entry}/dev") for entry in _entries(folder + "/slaves")]
        if backing := _text(folder + "/loop/backing_file"):
            try:
                waiting.append(_number_under(name, backing))
            except OSError as error:
                if error.errno in SHORTAGES:
                    raise
                continue  # It cannot be told.
    return found


def exports() -> list[tuple[str, str]]:
    """Return what the kernel's NVMe target exports: the subsystem's NQN, and the number of the block device."""
    root = f"{SYS}/kernel/config/nvmet/subsystems"
    found = []
    for nqn in _entries(root):
        for namespace in _entries(f"{root}/{nqn}/namespaces"):
            folder = f"{root}/{nqn}/namespaces/{namespace}"
            path = _text(folder + "/device_path")
            if _text(folder + "/enable") != "1" or not path.startswith("/dev/"):
                continue  # A file, of a file system that is mounted: to ask for it could hang.
            try:
                status = posix.stat(path)
            except OSError:
                continue
            if status.st_mode & 0o170000 == BLOCK:
                found.append((nqn, f"{posix.major(status.st_rdev)}:{posix.minor(status.st_rdev)}"))
    return found


def loops() -> dict[str, list[str]]:
    """Return the loop devices by the device number of what their backing file is, or lies on.

    Without those that lie on a file system that has no block device. Raises OSError if one cannot be told.
    """
    found: dict[str, list[str]] = {}
    backings = {}
    for name in _entries(f"{SYS}/class/block"):
        if name[:4] == "loop" and (backing := _text(f"{SYS}/class/block/{name}/loop/backing_file")):
            backings[name] = backing
    mounted = mounts.of_host() if backings else []
    for name, backing in backings.items():
        if _may_be_silent(mounted, backing):
            continue
        try:
            found.setdefault(_number_under(name, backing), []).append(name)
        except OSError as error:
            if error.errno in SHORTAGES:
                raise
            # It may have been detached meanwhile.
            if _text(f"{SYS}/class/block/{name}/loop/backing_file"):
                text = f"cannot tell on what /dev/{name} lies ({error.strerror}); detach it: losetup -d /dev/{name}"
                raise OSError(_EIO, text) from None
    return found


def _may_be_silent(mounted: list[mounts.Mount], path: str) -> bool:
    """Tell whether a file lies on a file system that has no block device and may never answer.

    The kernel asks the file system when it is asked what a loop device lies on, and waits for a server that is gone.
    """
    longest = None
    for mount in mounted:
        folder = mount.target.rstrip("/") + "/"
        # Of two at the same place the later one lies over the other.
        if path.startswith(folder) and (longest is None or len(mount.target) >= len(longest.target)):
            longest = mount
    return longest is not None and longest.number[:2] == "0:" and longest.fstype.startswith(mounts.NO_DEVICES)


def _number_under(loop: str, backing: str) -> str:
    """Return the number of the device that a loop device lies on. Raises OSError if it cannot be told.

    The kernel knows it, whatever has become of the path of the backing file: removed, or another mount namespace's.
    """
    try:
        return timeout.call(_ANSWER_TIMEOUT_SECONDS, _ask_loop, loop)
    except PermissionError:
        # Only workers may open block devices. The others have the path to go by.
        status = timeout.call(_ANSWER_TIMEOUT_SECONDS, posix.stat, backing)
    number = status.st_rdev if status.st_mode & 0o170000 == BLOCK else status.st_dev
    return f"{posix.major(number)}:{posix.minor(number)}"


def _ask_loop(loop: str) -> str:
    fd = posix.open(f"{DEV}/{loop}", posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        info = bytearray(_LOOP_INFO_SIZE)
        fcntl.ioctl(fd, _LOOP_STATUS, info)
    finally:
        posix.close(fd)
    device, _, own = _struct.unpack_from(_LOOP_INFO, info)
    number = own or device
    # As new_decode_dev() of linux/kdev_t.h.
    return f"{(number & 0xFFF00) >> 8}:{(number & 0xFF) | ((number >> 12) & 0xFFF00)}"


def _namespace_parts(name: str) -> tuple[str, str, str] | None:
    """Split ``nvme0n1`` and ``nvme0c3n1`` into the numbers of subsystem, controller ('' if absent) and namespace."""
    if name[:4] != "nvme":
        return None
    first, separator, namespace = name[4:].partition("n")
    first, c, controller = first.partition("c")
    if not separator or not first.isdigit() or not namespace.isdigit() or (c and not controller.isdigit()):
        return None
    return first, controller, namespace


def _entries(folder: str) -> list[str]:
    try:
        return posix.listdir(folder)
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        return []  # It has none, or is going away.


def _text(path: str) -> str:
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        return ""
    try:
        return posix.read(fd, 4096).decode("utf-8", "surrogateescape").strip()
    except OSError:
        return ""  # It goes away while we read.
    finally:
        posix.close(fd)
