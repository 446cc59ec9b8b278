# SPDX-License-Identifier: Apache-2.0
"""The ``exclude`` lines of stafd.conf and stacd.conf as entries of an exclusion list.

nvme-stas's hold for one kind of controllers, and our lists for all of them and every tool of the host. Those of stafd
are narrowed to discovery controllers. One without a field matches everything there, and must never do so here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from discoverd import exclusions
from discoverd.config.finding import Findings
from discoverd.config.ini import comment_hint, key_name
from discoverd.tid import DISCOVERY_NQN, TransportId

from .endpoints import Endpoint
from .grammar import Option, fields

_KEYS = {
    "transport": "transport",
    "traddr": "traddr",
    "trsvcid": "trsvcid",
    "nqn": "nqn",
    "host-traddr": "host-traddr",
    "host-iface": "host-iface",
    "host-nqn": "hostnqn",
}
_DISCOVERY_PORT = "8009"


@dataclass(frozen=True, slots=True)
class Exclude:
    """An ``exclude`` line with the keys of our lists."""

    line: int
    fields: dict[str, str]


def understand(options: Sequence[Option], ignore_iface: bool, findings: Findings) -> list[Exclude]:
    """Return the lines that can be carried over; each other one is a finding."""
    found = []
    for option in options:
        line = option.line
        if not option.value:
            text = "without a field it keeps nvme-stas from connecting anything, which no list here can; remove it"
            findings.lost(line, "exclude", text)
            continue
        parsed = fields(option.value)
        if parsed.stray or not parsed.pairs:
            findings.lost(line, "exclude", "a part of it is not key=value; separate the parts with ';'")
            continue
        foreign = [key for key in parsed.pairs if key not in _KEYS]
        if foreign:
            text = f"exclusions have no {key_name(foreign[0])}; use {', '.join(exclusions.KEYS)}"
            findings.lost(line, "exclude", text)
            continue
        if ignore_iface and "host-iface" in parsed.pairs:
            text = "with ignore-iface = true no controller has an interface, so it excludes nothing; remove it"
            findings.ignored(line, "exclude", text)
            continue
        ours = {_KEYS[key]: value for key, value in parsed.pairs.items()}
        entry, misunderstood = exclusions.understand(text_of(ours))
        if misunderstood or entry != ours:
            hint = f"; {hint}" if (hint := comment_hint(option.value)) and hint not in misunderstood else ""
            findings.lost(line, "exclude", (misunderstood or "it cannot be written so that it is understood") + hint)
            continue
        dropped = [key for key in parsed.pairs if key in parsed.unread or key == "host-traddr"]
        if dropped:
            text = f"it leaves {dropped[0]} out of the comparison, so it excludes more; here all of it has to match"
            findings.differs(line, "exclude", text)
        found.append(Exclude(line, ours))
    return found


def entries(one: Exclude, daemon: str, others: Sequence[Exclude], findings: Findings) -> list[str]:
    """Return the entries that stand for a line of a daemon; ``others`` are those of the other daemon's file."""
    if any(one.fields == other.fields for other in others) or "nqn" in one.fields:
        return [text_of(one.fields)]
    if daemon == "stacd":
        text = (
            "here it also holds for discovery controllers, and for every tool; add a trsvcid or nqn to leave those out"
        )
        findings.differs(one.line, "exclude", text)
        return [text_of(one.fields)]
    port = one.fields.get("trsvcid")
    if port == _DISCOVERY_PORT:
        return [text_of(one.fields)]
    written = [text_of({**one.fields, "nqn": DISCOVERY_NQN})]
    if not port and one.fields.get("transport", "tcp") == "tcp":
        written.append(text_of({**one.fields, "trsvcid": _DISCOVERY_PORT}))
    text = (
        "lists here hold for subsystems too, so it is narrowed to the well-known discovery NQN"
        f"{' and to port 8009' if len(written) == 2 else ''}; exclude a discovery controller with an NQN of its own "
        "by that"
    )
    findings.differs(one.line, "exclude", text)
    return written


def text_of(entry: dict[str, str]) -> str:
    """Return an entry as a list has it."""
    return ";".join(f"{key}={entry[key]}" for key in exclusions.KEYS if key in entry)


def hits(lists: exclusions.Exclusions, endpoint: Endpoint) -> str:
    """Return where the exclusion stands (``file:line``) that keeps a controller by address away, '' for none."""
    connection = endpoint.connection
    try:
        tid = TransportId.make(
            connection.role,
            connection.transport,
            connection.traddr,
            connection.trsvcid,
            connection.subsysnqn,
            host_traddr=connection.host_traddr,
            host_iface=connection.host_iface,
        )
    except ValueError:
        return ""
    options = {"transport": tid.transport, "traddr": tid.traddr, "trsvcid": tid.trsvcid, "nqn": tid.subsysnqn}
    return lists.match({**options, "host_traddr": tid.host_traddr, "host_iface": tid.host_iface})
