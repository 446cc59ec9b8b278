# SPDX-License-Identifier: Apache-2.0
"""discovery.conf: a discovery controller on each line, as options of ``nvme discover``.

nvme-cli 2 splits a line at blanks and at each '=', and at nothing else: there is no quoting, and no line continues
another. A '#' begins a comment only as the first character of the line. What a line does not say about where the
controller is, it takes from the lines above.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from discoverd.config.errors import did_you_mean
from discoverd.config.finding import Findings
from discoverd.config.ini import key_name
from discoverd.config.sources import SourceFile
from discoverd.tid import DISCOVERY_NQN, TRANSPORTS, default_service

from . import options
from .entry import Entry, Host
from .options import BadValueError, Option

NAME = "discovery.conf"
# The longest line that nvme-cli reads in one piece, in bytes.
LINE_MAX = 4094
_ALL = "the line"


@dataclass(frozen=True, slots=True)
class _Word:
    """A part of a line between blanks. ``after_gap``: more than one blank stands before it."""

    text: str
    after_gap: bool


@dataclass(slots=True)
class _Line:
    """What a line says; of a repeated option the last counts. ``values`` can hold secrets."""

    number: int
    values: dict[Option, str] = field(default_factory=dict, repr=False)


def read(source: SourceFile, findings: Findings) -> list[Entry]:
    """Return what the lines ask for, in their order; what does not count, or not as it stands, is a finding."""
    entries = []
    before: dict[str, tuple[str, int]] = {}
    for number, raw in enumerate(source.data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        words = _words(raw, number, findings)
        if not words:
            continue
        line = _Line(number)
        _options(words, line, findings)
        if line.values and (entry := _entry(line, before, source.path, findings)):
            entries.append(entry)
    return entries


def _words(raw: bytes, number: int, findings: Findings) -> list[_Word]:
    """Take a line apart. Returns nothing for a comment, an empty line, and one that cannot be read."""
    if raw.startswith(b"#") or not raw.strip():
        return []
    if len(raw) > LINE_MAX:
        findings.lost(number, _ALL, f"it is longer than {LINE_MAX} bytes, and nvme-cli reads it in pieces; shorten it")
        return []
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        findings.lost(number, _ALL, "it is not valid UTF-8; write it again")
        return []
    if text.endswith("\r"):
        text = text[:-1]
        why = "nvme-cli takes the CR at its end for a part of the last value; it is left out from now on"
        findings.ignored(number, _ALL, why)
    if "\t" in text:
        findings.ignored(number, _ALL, "to nvme-cli a tab is a part of a value; here it separates, as a blank does")
        text = text.replace("\t", " ")
    if not text.isprintable():
        findings.lost(number, _ALL, "a control character stands in it; write it again")
        return []
    parts = text.split(" ")
    words = [_Word(part, after_gap=place > 0 and not parts[place - 1]) for place, part in enumerate(parts) if part]
    return _without_comment(words, number, findings)


def _without_comment(words: list[_Word], number: int, findings: Findings) -> list[_Word]:
    place = next((place for place, word in enumerate(words) if word.text.startswith("#")), len(words))
    if any(word.text.startswith("-") for word in words[place + 1 :]):
        text = "nvme-cli takes options behind a '#' for options, unless the line begins with it; here it is a comment"
        findings.differs(number, "#", text)
    return words[:place]


def _options(words: list[_Word], line: _Line, findings: Findings) -> None:
    """Read the options of a line, as getopt_long(3) does."""
    rest = iter(words)
    for word in rest:
        name, equals, value = word.text.partition("=")
        if not name.startswith("-") or name in ("-", "--"):
            # Not shown: it may be the tail of a secret.
            text = "no line goes on in the next; write it as one" if word.text == "\\" else "remove that"
            findings.ignored(line.number, _ALL, f"a part of it is no option; {text}")
            continue
        option = options.named(name.lstrip("-")) if name.startswith("--") or len(name) > 2 else None
        if option is None and not name.startswith("--"):
            _cluster(name[1:], value if equals else None, rest, line, findings)
        elif option is None:
            _unknown(name, line, findings)
        else:
            _take(option, value if equals else None, rest, line, findings)


def _cluster(letters: str, value: str | None, rest: Iterator[_Word], line: _Line, findings: Findings) -> None:
    """Take short options that stand together: flags, and one with its value behind it."""
    for place, letter in enumerate(letters):
        option = options.SHORT.get(letter)
        if option is None:
            _unknown(f"-{letter}", line, findings)
            return
        if option.takes_value:
            attached = letters[place + 1 :]
            if attached and value is not None:
                attached = f"{attached}={value}"
            _take(option, attached or value, rest, line, findings)
            return
        _take(option, None, rest, line, findings)
    if value is not None:
        findings.ignored(line.number, f"-{letters}", "it takes no value; remove that")


def _unknown(name: str, line: _Line, findings: Findings) -> None:
    word = name.lstrip("-")
    hint = ("" if findings.many else did_you_mean(word, options.LONG)) or "remove it"
    text = f"nvme discover has no such option, so nvme-cli leaves the line out, whose rest is connected now; {hint}"
    findings.ignored(line.number, key_name(word).strip('"'), text)


def _take(option: Option, value: str | None, rest: Iterator[_Word], line: _Line, findings: Findings) -> None:
    if not option.takes_value:
        if value is not None:
            findings.ignored(line.number, option.name, "it takes no value; remove that")
        line.values[option] = ""
        return
    if value is None:
        word = next(rest, None)
        if word is not None and word.text == "=":
            word = next(rest, None)
            word = word and _Word(word.text, after_gap=True)
        if word is None:
            text = "it has no value, so nvme-cli leaves the line out, whose rest is connected now"
            findings.ignored(line.number, option.name, text)
            return
        value = word.text.removeprefix("=")
        if word.after_gap or value != word.text:
            text = (
                "more than a blank or a '=' stands before its value, which is empty for nvme-cli then; it counts here"
            )
            findings.ignored(line.number, option.name, text)
    if "=" in value:
        text = "to nvme-cli the value ends at the '='; all of it counts from now on"
        findings.ignored(line.number, option.name, text)
    if option in line.values:
        findings.differs(line.number, option.name, "it is given twice, and the last one counts, as for nvme-cli")
    line.values[option] = value


def _entry(line: _Line, before: dict[str, tuple[str, int]], path: str, findings: Findings) -> Entry | None:
    address: dict[str, str] = {}
    shared: dict[str, str] = {}
    settings: dict[str, str] = {}
    nqn = ""
    for option, value in line.values.items():
        if option.takes_value and not value:
            findings.ignored(line.number, option.name, "it is empty; give it a value, or remove it")
            continue
        try:
            if option.kind == "address":
                address[option.ours] = options.check_text(value)
            elif option.name == "nqn":
                nqn = "" if value == DISCOVERY_NQN else options.check_text(value)
            else:
                _setting(option, value, shared, settings, line, findings)
        except BadValueError as error:
            findings.lost(line.number, option.name, str(error))
            if option.kind == "address" or option.name == "nqn":
                return None
    if "transport" in address or "traddr" in address:
        _inherit(address, before, line, findings)
        _mend(address, line, findings)
    missing = [name for name in ("transport", "traddr") if name not in address]
    if missing and (missing, address.get("transport")) != (["traddr"], "loop"):
        findings.ignored(line.number, _ALL, f"it has no --{' and no --'.join(missing)}; complete it, or remove it")
        return None
    return Entry(path, line.number, "discovery", address, nqn, Host(), {}, shared, settings)


def _setting(
    option: Option,
    value: str,
    shared: dict[str, str],
    settings: dict[str, str],
    line: _Line,
    findings: Findings,
) -> None:
    """Take an option that says how the controller is connected. Raises BadValueError."""
    if option.kind == "output":
        findings.differs(line.number, option.name, "it is about what nvme-cli does by itself; nothing to do")
    elif option.kind == "identity":
        text = (
            "nvme-cli 2 connects as this host all the same, and so do we; for another host write a file with a [Host] "
            "section, see discoverd-fabrics(5)"
        )
        findings.ignored(line.number, option.name, text)
    elif option.kind == "int":
        if text := options.number(option, value):
            shared[option.ours] = text
        else:
            findings.ignored(line.number, option.name, "it leaves the value to the kernel, as if it were not there")
    elif option.kind == "flag":
        shared[option.ours] = "true"
    elif option.kind == "persistent":
        settings[option.ours] = "force"
    elif value and value != "none":
        settings[option.ours] = options.check_text(value)
        why = "nvme-cli 2 does not use it here, though documented; it is used for this controller from now on"
        findings.ignored(line.number, option.name, why)


def _inherit(address: dict[str, str], before: dict[str, tuple[str, int]], line: _Line, findings: Findings) -> None:
    """Complete an address by the lines above, as nvme-cli does, and remember it for those below."""
    given = dict(address)
    for name in ("transport", "traddr", "trsvcid"):
        if name not in given and name in before:
            value, above = before[name]
            if name == "trsvcid" and value == default_service(address.get("transport", ""), "discovery"):
                continue
            address[name] = value
            text = f"it is not given, so nvme-cli takes that of line {above}, and so do we; add what is meant"
            findings.differs(line.number, name, text)
        elif name in given:
            before[name] = given[name], line.number


def _mend(address: dict[str, str], line: _Line, findings: Findings) -> None:
    """Take out of an address what keeps the kernel from connecting it."""
    transport = address.get("transport", "")
    if transport != transport.lower() and transport.lower() in TRANSPORTS:
        address["transport"] = transport = transport.lower()
        text = "the kernel takes it in small letters only, in which it is written; it is connected from now on"
        findings.ignored(line.number, "transport", text)
    if transport in ("fc", "loop") and address.pop("trsvcid", ""):
        text = f"{transport} has none, and the kernel does not connect with one; it is left out, and the rest connected"
        findings.ignored(line.number, "trsvcid", text)
