# SPDX-License-Identifier: Apache-2.0
"""Run-time state under /run/discoverd: what the supervisor asks of a worker, and what the worker reports.

Each controller has a directory named after its unit's instance, with ``spec`` (supervisor to worker),
``report`` and ``log`` (worker to supervisor; ``log`` is the discovery log page as the controller sent it, behind a head
of text that says how it was read).
``spec`` can hold a secret, so it is for root only, and what of it everybody may know is in ``spec.public``; what tells
how things are, everybody may read. The text form is made to be read by a worker that imports no parser: a line with
kind and version, ``key=value`` lines, and ``end``, whose absence tells a truncated file.
"""

import posix

# Until the next boot, and over boots. Units and tmpfiles.d have them as well (tests/unit/test_packaging.py).
ROOT, LASTING = "/run/discoverd", "/var/lib/discoverd"
CONTROLLERS = ROOT + "/controllers"
# Workers send their instance here, one datagram each time they have written a new report.
WAKE_SOCKET = ROOT + "/wake"
FORK_SERVER = "/run/discoverd-fork-server"

# Modes. Files are root's own unless it is said that everybody may read them, whatever the umask of who writes.
PRIVATE, PUBLIC, PUBLIC_DIRECTORY = 0o600, 0o644, 0o755

# The file beside ``spec`` that has what of it everybody may know.
PUBLIC_SPEC = "spec.public"

SPEC = "discoverd-spec 1"
REPORT = "discoverd-report 1"
LOG = "discoverd-log 1"
# Written by the supervisor: an owner in the registry that does not count any more, and for how long that is true.
TAKE_BACK = "discoverd-take-back 1"
TAKE_BACK_SECONDS = 15

# What a report says of a controller, in its field ``state``: while its worker runs, and as its last word. FOREIGN is
# one that belongs to somebody else, GONE one that was lost while the system goes down.
LIVE, RECONNECTING, CONNECTING, WAITING = "live", "reconnecting", "connecting", "waiting"
PARKED, FOREIGN, GONE, STOPPING = "parked", "foreign", "gone", "stopping"
STOPPED, REFUSED, EXCLUDED, WITHDRAWN, GIVEN_UP = "stopped", "refused", "excluded", "withdrawn", "given up"
# The worker has ended by itself: nobody has stopped it.
ENDED = (EXCLUDED, WITHDRAWN, GIVEN_UP)
STATES = (LIVE, RECONNECTING, CONNECTING, WAITING, PARKED, FOREIGN, GONE, STOPPING, STOPPED, REFUSED, *ENDED)
# So often a controller that is parked is read, unless configured otherwise.
PARKED_INTERVAL_SECONDS = 900

# What a report says in ``answer`` of the target at the last attempt: it has answered, however that was, or it has not.
ANSWERED, SILENT = "yes", "no"

# As many as a 64-bit number has, such as that of an inode.
_DIGITS = 20
_LAST_PORT = 65535


class StateError(Exception):
    """A state file that is missing, truncated, of another version or unwritable; the text says which and why."""


def instance_of(unit: str) -> str:
    """Return the instance in the name of a controller's unit, '' where that is no name for a directory.

    The thin processes have no use for the rest of tid.py.
    """
    instance = unit.removeprefix("nvme-ctrl@").removesuffix(".service")
    return instance if valid_instance(instance) else ""


def valid_instance(text: str) -> bool:
    """Tell whether ``text`` can be an instance, which is a part of a unit's name and the name of a directory."""
    return text.isprintable() and text != "" and "/" not in text and text[0] != "."


def number(text: str) -> int:
    """Return the number that a state file has. Raises StateError for anything but a few ASCII digits.

    int() takes signs, spaces, underscores and the digits of all scripts, and raises ValueError at 4,300 of them.
    """
    if not text.isascii() or not text.isdigit() or len(text) > _DIGITS:
        raise StateError(f"{text[:40]!r} is no number")
    return int(text)


def _has_control(text: str) -> bool:
    """Tell whether there is something in a text that ends a line, for whoever reads it, or moves a cursor."""
    if text.isprintable():
        return False
    # What is no UTF-8, such as in a file's name, is not printable and does no harm.
    return any(char < " " or "\x7f" <= char < "\xa0" or char in "\u2028\u2029" for char in text)


def directory(instance: str) -> str:
    """Return the directory of a controller's state."""
    return f"{CONTROLLERS}/{instance}"


def exists(path: str) -> bool:
    """Tell whether there is such a file, and it can be reached."""
    try:
        posix.stat(path)
    except OSError:
        return False
    return True


def encode(kind: str, fields: list[tuple[str, str]]) -> bytes:
    """Return the file's bytes.

    A value with a line break, which could forge a field, or another control character raises StateError.
    """
    lines = [kind]
    for key, value in fields:
        if _has_control(value):
            raise StateError(f"the value of {key} has a line break or another control character in it")
        lines.append(f"{key}={value}")
    lines.append("end\n")
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def decode(kind: str, data: bytes) -> list[tuple[str, str]]:
    """Return the fields in their order.

    StateError if the data is truncated, of another kind or version, or holds what :func:`encode` does not write.
    """
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    if lines[0] != kind:
        raise StateError(f"it begins with {lines[0][:40]!r} instead of {kind!r}")
    if lines[-2:] != ["end", ""]:
        raise StateError("it is truncated")
    fields = []
    for line in lines[1:-2]:
        key, equals, value = line.partition("=")
        if not equals:
            raise StateError(f"the line {line[:40]!r} is no field")
        if _has_control(line):
            raise StateError(f"the field {key[:40]!r} has a control character in it")
        fields.append((key, value))
    return fields


def read(path: str, limit: int = 1 << 20) -> bytes:
    """Return a file's content; StateError with the reason if it cannot be read or has more than ``limit`` bytes."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW)
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}") from None
    try:
        chunks = []
        size = 0
        while chunk := posix.read(fd, 65536):
            size += len(chunk)
            if size > limit:
                raise StateError(f"{path}: more than {limit} bytes")
            chunks.append(chunk)
        return b"".join(chunks)
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}") from None
    finally:
        posix.close(fd)


def write(path: str, data: bytes, mode: int = PRIVATE, lasting: bool = False) -> None:
    """Replace a file in one step, so that a reader sees the old or the new content, never a part.

    With PUBLIC for a ``mode`` everybody may read it: nothing that can hold a secret. ``lasting``: also after a loss of
    power.

    Raises StateError, with the old content left as it was, when the file system is full or the directory is gone.
    """
    temporary = f"{path}.tmp.{posix.getpid()}"
    try:
        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC | posix.O_NOFOLLOW
        fd = posix.open(temporary, flags, PRIVATE)
        try:
            if mode != PRIVATE:
                posix.fchmod(fd, mode)
            view = memoryview(data)
            while view:
                view = view[posix.write(fd, view) :]
            if lasting:
                posix.fsync(fd)
        finally:
            posix.close(fd)
        posix.rename(temporary, path)
        if lasting:
            _sync(path.rpartition("/")[0])
    except OSError as error:
        try:
            posix.unlink(temporary)
        except OSError:
            pass  # It was never made, or the directory went with it.
        raise StateError(f"{path}: {error.strerror}") from None


def _sync(folder: str) -> None:
    fd = posix.open(folder, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
    try:
        posix.fsync(fd)
    finally:
        posix.close(fd)


def left_behind(name: str) -> bool:
    """Tell whether the process is gone whose number a temporary name ends in."""
    try:
        posix.kill(number(name.rpartition(".")[2]), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except (StateError, PermissionError):
        pass  # Not one of ours, or not ours to ask.
    return False


def sweep(folder: str) -> None:
    """Take away what killed processes have left half-written in a directory. Raises OSError."""
    for name in posix.listdir(folder):
        if ".tmp." in name and left_behind(name):
            try:
                posix.unlink(f"{folder}/{name}")
            except FileNotFoundError:
                pass  # Somebody else has swept as well.


def split(kind: str, data: bytes) -> tuple[list[tuple[str, str]], bytes]:
    """Return the fields of a text form at the beginning of ``data``, as :func:`decode`, and what follows it."""
    head, end, body = data.partition(b"\nend\n")
    return decode(kind, head + end), body


class Spec:
    """What a worker is asked to connect. ``options`` are the fabrics device's, in the order in which they are
    written.

    ``source``, ``origin`` and ``referrers`` are the supervisor's: what asked for the controller last, and its referrers
    (discoverd.plan.facts.Known) with spaces between them.
    ``note`` is a remark for the status, such as that no log page lists the controller any longer. ``withdrawn``: nobody
    asks for it any more, as the note says, and it is not connected again. ``disconnect``: it is disconnected as well,
    unless it is in use, if we have connected it (``ours``) or whoever has (``all``). ``give_up_after``: give up after
    so many seconds without a connection, 0 for never. ``attempts``: give up after so many failed attempts in a row, 0
    for never. ``source_optional``: ``host_traddr`` is left out if this host does not have it.
    ``announced_on`` is the interface on which it was announced by mDNS, and ``announced_until`` when that was last
    (local time), '' while it is. ``trusted`` as in discoverd.plan.candidate: of what is only announced, less is read.

    For a discovery controller, ``persistent`` is ``no``, ``auto`` or ``force``: whether its connection is
    persistent, or it is read from time to time. ``symname`` is the host symbolic name to register with, and with
    ``pleo`` only entries of the port that was asked are asked for. ``confirm``: its log page is read every minute,
    because more readings are needed before something is withdrawn. With ``register`` it is told who this host is (DIM).
    ``parked_interval`` is in how many seconds it is read again where its connection is not persistent.
    """

    __slots__ = (
        "announced_on",
        "announced_until",
        "attempts",
        "confirm",
        "disconnect",
        "give_up_after",
        "note",
        "options",
        "origin",
        "parked_interval",
        "persistent",
        "pleo",
        "referrers",
        "register",
        "role",
        "source",
        "source_optional",
        "symname",
        "trusted",
        "withdrawn",
    )

    def __init__(self, role: str, options: list[tuple[str, str]]) -> None:
        self.role = role
        self.options = options
        self.source = ""
        self.origin = ""
        self.announced_on = self.announced_until = ""
        self.referrers = ""
        self.note = ""
        self.give_up_after = 0
        self.attempts = 0
        self.disconnect = ""
        self.source_optional = False
        self.withdrawn = False
        self.persistent = "auto"
        self.symname = ""
        self.pleo = False
        self.confirm = False
        self.register = self.trusted = True
        self.parked_interval = PARKED_INTERVAL_SECONDS

    def asks_the_same(self, other: "Spec") -> bool:
        """Tell whether both ask for the same, whatever they say in the status and how often the log page is read."""
        mine, theirs = (
            [getattr(one, name) for name in Spec.__slots__ if name not in ("note", "confirm", "referrers")]
            for one in (self, other)
        )
        return mine == theirs

    def option(self, key: str) -> str:
        """Return the value of an option of the fabrics device, '' where it is not given."""
        for name, value in self.options:
            if name == key:
                return value
        return ""

    def encode(self) -> bytes:
        """Return the bytes of a ``spec`` file. Raises StateError for a value that would break the form."""
        fields = [("role", self.role), ("source", self.source), ("origin", self.origin), ("note", self.note)]
        for key, text in (
            ("announced-on", self.announced_on),
            ("announced-until", self.announced_until),
            ("witnesses", self.referrers),
        ):
            if text:
                fields.append((key, text))
        if self.give_up_after:
            fields.append(("horizon", str(self.give_up_after)))
        if self.attempts:
            fields.append(("attempts", str(self.attempts)))
        if self.persistent != "auto":
            fields.append(("persistent", self.persistent))
        if self.parked_interval != PARKED_INTERVAL_SECONDS:
            fields.append(("parked-interval", str(self.parked_interval)))
        if self.symname:
            fields.append(("symname", self.symname))
        if self.disconnect:
            fields.append(("disconnect", self.disconnect))
        for name, flag in self._flags():
            if flag:
                fields.append((name, "yes"))
        for key, value in self.options:
            if "," in value:
                raise StateError(f"the option {key} has a comma in it, which would end it for the kernel")
            fields.append(("option." + key, value))
        return encode(SPEC, fields)

    def _flags(self) -> list[tuple[str, bool]]:
        return [
            ("source-optional", self.source_optional),
            ("withdrawn", self.withdrawn),
            ("pleo", self.pleo),
            ("confirm", self.confirm),
            ("no-registration", not self.register),
            ("untrusted", not self.trusted),
        ]

    @staticmethod
    def decode(data: bytes) -> "Spec":
        """Read a ``spec`` file. Raises StateError."""
        spec = Spec("io", [])
        for key, value in decode(SPEC, data):
            if key in ("note", "source", "origin"):
                setattr(spec, key, value)
            elif key == "witnesses":
                spec.referrers = value
            elif not key.isprintable() or not value.isprintable():
                raise StateError(f"the field {key[:40]!r} is not printable")
            elif key.startswith("option."):
                if "," in key or "," in value:
                    raise StateError(f"the option {key[7:47]!r} has a comma in it, which would end it for the kernel")
                spec.options.append((key[7:], value))
            elif key in ("role", "persistent", "symname", "disconnect"):
                setattr(spec, key, value)
            elif key in ("announced-on", "announced-until"):
                setattr(spec, key.replace("-", "_"), value)
            elif key == "horizon":
                spec.give_up_after = number(value)
            elif key == "attempts":
                spec.attempts = number(value)
            elif key == "parked-interval":
                spec.parked_interval = number(value)
            elif key in ("source-optional", "withdrawn", "pleo", "confirm"):
                setattr(spec, key.replace("-", "_"), True)
            elif key == "no-registration":
                spec.register = False
            elif key == "untrusted":
                spec.trusted = False
        if not spec.option("nqn") or not spec.option("transport"):
            raise StateError("it has no NQN or no transport")
        if number(spec.option("trsvcid") or "0") > _LAST_PORT:
            raise StateError("its trsvcid is no port")
        return spec
