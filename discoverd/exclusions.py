# SPDX-License-Identifier: Apache-2.0
"""The exclusion lists that all orchestrators of a host share: which connections nobody may make on his own.

``exclusions.conf``, ``exclusions.conf.d/*.conf`` and, from an earlier draft of the format, the files in
``exclusions/``, all below /etc/nvme. Grammar and matching are those of nvme-cli 3.0 (libnvme, exclusion.c), except that
a line may be of any length, a byte order mark is skipped, and what excludes nothing is reported. Used by workers, so
it imports only what they may.
"""

import posix

from discoverd.kernel import controllers

ROOT = "/etc/nvme"
MAIN = "exclusions.conf"
DROP_INS = "exclusions.conf.d"
DRAFT = "exclusions"
SECTION = "exclusions"
KEY = "exclusion"
# As nvme-cli's. Larger files are not read at all.
MAX_SIZE = 1 << 20
# A file of garbage must not become a journal of garbage.
MAX_PROBLEMS = 100

# A key of an entry, and the fabrics device's name of what it is about.
KEYS = {
    "transport": "transport",
    "traddr": "traddr",
    "trsvcid": "trsvcid",
    "nqn": "nqn",
    "host-traddr": "host_traddr",
    "host-iface": "host_iface",
    "hostnqn": "hostnqn",
    "hostid": "hostid",
}
_ADDRESSES = ("traddr", "host-traddr")
_TRANSPORTS = ("tcp", "rdma", "fc", "loop")

# What a line can be, for those who edit the files; see scan().
ENTRY, HEADER, BROKEN_HEADER, STRAY, UNKNOWN = "entry", "header", "broken header", "stray", "unknown"


class Entry:
    """One exclusion. ``fields`` has its keys (spelled as in the file) and values; what is not there matches anything.

    ``file`` is printable, ``line`` counts from 1.
    """

    __slots__ = ("fields", "file", "line")

    def __init__(self, file: str, line: int, fields: dict[str, str]) -> None:
        self.file = file
        self.line = line
        self.fields = fields

    @property
    def text(self) -> str:
        """Where it stands: ``file:line``."""
        return f"{self.file}:{self.line}"


class Exclusions:
    """All exclusions of a host. Two are equal if they exclude the same, at the same places, with the same problems.

    ``problems`` has the file, the line (0 for the whole file) and a sentence on what is wrong and what to do.
    """

    __slots__ = ("_index", "entries", "problems")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, entries: list[Entry], problems: list[tuple[str, int, str]]) -> None:
        self.entries = entries
        self.problems = problems
        # The entries with the same keys, by their values: looking up costs the same, however many there are.
        self._index: dict[tuple[str, ...], dict[tuple[str | bytes, ...], int]] = {}
        for number, entry in enumerate(entries):
            fields = sorted(entry.fields.items())
            table = self._index.setdefault(tuple(key for key, _ in fields), {})
            fc = entry.fields.get("transport") == "fc"
            table.setdefault(tuple(_canonical(key, value, fc) for key, value in fields), number)

    def match(self, options: dict[str, str]) -> str:
        """Return where the first entry that excludes a connect stands (``file:line``), '' if none does.

        ``options`` are the fabrics device's, with the values that would really be used. An entry excludes if each of
        its fields is given and equal: addresses as addresses, whatever their spelling and zone, WWNs as numbers, the
        rest as text.
        """
        known = {key: _canonical(key, options[name], False) for key, name in KEYS.items() if options.get(name)}
        first = len(self.entries)
        for keys, table in self._index.items():
            try:
                values = tuple([known[key] for key in keys])
            except KeyError:
                continue
            first = min(first, table.get(values, first))
        return self.entries[first].text if first < len(self.entries) else ""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Exclusions):
            return NotImplemented
        return self.problems == other.problems and _plain(self.entries) == _plain(other.entries)


def _plain(entries: list[Entry]) -> list[tuple[str, int, dict[str, str]]]:
    return [(entry.file, entry.line, entry.fields) for entry in entries]


def load(root: str = ROOT) -> Exclusions:
    """Read the lists below ``root``. What is missing excludes nothing, what cannot be read is a problem. Blocks."""
    names, problems = paths(root)
    files = []
    for path in names:
        try:
            data = read(path)
        except OSError as error:
            problems.append((printable(path), 0, f"{error.strerror}, so nothing in it counts; mend that"))
        else:
            if data is not None:
                files.append((printable(path), data))
    found = parse(files)
    return Exclusions(found.entries, problems + found.problems)


def paths(root: str) -> tuple[list[str], list[tuple[str, int, str]]]:
    """Return the paths of the lists in the order in which they count, and problems with the directories. Blocks.

    The main one is among them whether it exists or not.
    """
    found = [f"{root}/{MAIN}"]
    problems = []
    for directory, is_list in ((DROP_INS, _is_drop_in), (DRAFT, _is_no_backup)):
        path = f"{root}/{directory}"
        try:
            names = sorted(posix.listdir(path))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            problems.append((printable(path), 0, f"cannot be listed ({error.strerror}), so it has no lists; mend that"))
            continue
        found += [f"{path}/{name}" for name in names if is_list(name)]
    return found, problems


def _is_drop_in(name: str) -> bool:
    return name.endswith(".conf") and name != ".conf"


def _is_no_backup(name: str) -> bool:
    # Editors leave theirs beside the file.
    return not name.startswith(".") and not name.endswith("~")


def read(path: str) -> bytes | None:
    """Return a list's content, None if there is no such regular file. Raises OSError, also for one that is too large.

    Blocks.
    """
    try:
        # Opening a FIFO that somebody put there must not wait for its writer.
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        if posix.fstat(fd).st_mode & 0o170000 != 0o100000:  # S_IFMT, S_IFREG
            if f"/{DRAFT}/" in path:
                return None
            raise OSError(0, "it is not a regular file", path)
        chunks = []
        size = 0
        while chunk := posix.read(fd, 65536):
            size += len(chunk)
            if size > MAX_SIZE:
                raise OSError(0, "it is larger than 1 MiB", path)
            chunks.append(chunk)
        return b"".join(chunks)
    finally:
        posix.close(fd)


def parse(files: list[tuple[str, bytes]]) -> Exclusions:
    """Understand files that were read already: (printable path, content). Pure; raises nothing."""
    entries: list[Entry] = []
    problems: list[tuple[str, int, str]] = []
    for file, data in files:
        found = []
        for line, kind, text in scan(data):
            sentence = ""
            if kind == ENTRY:
                fields, sentence = understand(text)
                if fields:
                    entries.append(Entry(file, line, fields))
            elif kind == STRAY:
                sentence = f"this stands before or outside of [{SECTION}] and excludes nothing; put it below that line"
            elif kind == BROKEN_HEADER:
                sentence = f"this section header has no ']', so what follows excludes nothing; write [{SECTION}]"
            elif kind == UNKNOWN:
                sentence = f"'{_short(text)}' is ignored; what excludes begins with '{KEY} ='"
            if sentence:
                found.append((file, line, sentence))
        if len(found) > MAX_PROBLEMS:
            more = len(found) - MAX_PROBLEMS
            found[MAX_PROBLEMS:] = [(file, found[MAX_PROBLEMS][1], f"and {more} more from here on; mend these first")]
        problems += found
    return Exclusions(entries, problems)


def scan(data: bytes) -> list[tuple[int, str, str]]:
    """Return (line, kind, text) for each line that means something, in their order.

    An entry's text is what follows the equals sign, without white space around it. STRAY is an entry outside of the
    section, UNKNOWN anything else in it.
    """
    found = []
    inside = False
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        line = raw.strip()
        if not line or line.startswith(b"#"):
            continue
        text = line.decode("utf-8", "surrogateescape")
        if text.startswith("["):
            name, closed, _ = text[1:].partition("]")
            inside = bool(closed) and _trim(name) == SECTION
            found.append((number, HEADER if closed else BROKEN_HEADER, _trim(name)))
            continue
        key, equals, value = text.partition("=")
        if equals and _trim(key) == KEY:
            found.append((number, ENTRY if inside else STRAY, _trim(value)))
        elif inside:
            found.append((number, UNKNOWN, text))
    return found


def _trim(text: str) -> str:
    # What C's isspace takes for white space, and no more.
    return text.strip(" \t\n\v\f\r")


def understand(text: str) -> tuple[dict[str, str], str]:
    """Return an entry's fields, and a sentence on what is wrong with it and what to do, '' if nothing is.

    Without fields the entry is malformed, and counts as not there. With fields and a sentence it counts, but can
    hardly be meant so.
    """
    fields: dict[str, str] = {}
    for token in text.split(";"):
        field = _trim(token)
        if not field:
            continue
        key, equals, value = field.partition("=")
        key, value = _trim(key), _trim(value)
        if not equals:
            return {}, f"'{_short(field)}' has no '='; write KEY=VALUE, separated by semicolons"
        if key not in KEYS:
            return {}, f"'{_short(key)}' is no key of an exclusion; {_meant(key)}"
        if not value:
            return {}, f"{key} has no value; give one, or leave the key out to match any"
        if not value.isprintable():
            return {}, f"the value of {key} has a character that cannot be printed; write it again"
        fields[key] = value
    if not fields:
        return {}, "it has no field, and would exclude nothing; write KEY=VALUE, separated by semicolons"
    transport = fields.get("transport", "")
    for key in _ADDRESSES:
        value = fields.get(key, "")
        if value and transport in ("tcp", "rdma") and controllers.packed_address(value) is None:
            return {}, f"{key}={_short(value)} is no IP address; names are not looked up, so give the address"
        if value and transport == "fc" and (value[:5] != "nn-0x" or not _wwns(value.replace(",", ":"))):
            return {}, f"{key}={_short(value)} is no Fibre Channel address; write nn-0x…:pn-0x…"
    return fields, _misunderstood(fields)


def _meant(key: str) -> str:
    guess = key.lower().replace("_", "-")
    guess = "nqn" if guess in ("subsysnqn", "subnqn", "subsystem-nqn") else guess
    return f"did you mean {guess}?" if guess in KEYS else f"use {', '.join(KEYS)}"


def _misunderstood(fields: dict[str, str]) -> str:
    """Return why an entry, though well-formed, can match nothing, '' if it can."""
    for key, value in fields.items():
        if " #" in value or "\t#" in value:
            return f"'{_short(value[value.index('#') :])}' is part of {key}; put the comment on a line of its own"
        if key == "transport" and value not in _TRANSPORTS:
            return f"transport={_short(value)} matches nothing; write one of {', '.join(_TRANSPORTS)}"
        if key in ("nqn", "hostnqn") and value[:4] != "nqn.":
            return f"{key}={_short(value)} matches nothing; an NQN begins with nqn., and has no quotation marks"
        if key == "trsvcid" and (not value.isascii() or not value.isdigit() or value[0] == "0"):
            return f"trsvcid={_short(value)} matches nothing; give the port as a number without leading zeros"
        if key in _ADDRESSES and "transport" not in fields and not (controllers.packed_address(value) or _wwns(value)):
            return f"{key}={_short(value)} is no numeric address and matches nothing; give the address"
    return ""


def _canonical(key: str, value: str, fc_entry: bool) -> str | bytes:
    """Return what is equal for values that count as equal."""
    if key in _ADDRESSES:
        wwns = _wwns(value.replace(",", ":") if fc_entry else value)
        return wwns or controllers.packed_address(value) or value
    if key == "hostid":
        return value.lower()
    return controllers.canonical_nqn(value) if key in ("nqn", "hostnqn") else value


def _wwns(address: str) -> str:
    """Return the one spelling of a Fibre Channel address, '' if it is none."""
    node, _, port = address.lower().partition(":")
    if node[:5] != "nn-0x" or port[:5] != "pn-0x":
        return ""
    for digits in (node[5:], port[5:]):
        if not 0 < len(digits) < 17 or digits.strip("0123456789abcdef"):
            return ""
    return f"nn-0x{node[5:]:0>16}:pn-0x{port[5:]:0>16}"


def _short(text: str) -> str:
    return printable(text if len(text) <= 80 else text[:80] + "…")


def printable(text: str) -> str:
    """Return a text, or a path with bytes that are no text, as a journal and a terminal take it."""
    return text if text.isprintable() else ascii(text)[1:-1]
