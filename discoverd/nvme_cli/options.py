# SPDX-License-Identifier: Apache-2.0
"""The options of ``nvme discover`` and ``nvme connect-all`` (nvme-cli 2), and what their values mean here.

A key of config.json is the long option with underscores, but for the secrets.
"""

from dataclasses import dataclass
from typing import Literal

from discoverd.config.errors import quote
from discoverd.config.keys import parse_int

Kind = Literal["address", "identity", "int", "flag", "text", "secret", "persistent", "output"]


@dataclass(frozen=True, slots=True)
class Option:
    """An option. ``ours`` is the key of nvme-fabrics.conf, '' where there is none. ``takes_value``: as on a line."""

    name: str
    kind: Kind
    ours: str
    short: str = ""
    takes_value: bool = True


def _flag(name: str, kind: Kind, ours: str = "", short: str = "") -> Option:
    return Option(name, kind, ours, short, takes_value=False)


_INTEGERS = {
    "nr-io-queues": "i",
    "nr-write-queues": "W",
    "nr-poll-queues": "P",
    "queue-size": "Q",
    "keep-alive-tmo": "k",
    "reconnect-delay": "c",
    "ctrl-loss-tmo": "l",
    "fast-io-fail-tmo": "F",
    "tos": "T",
}
# They mean nothing for a discovery controller, only for what it lists.
QUEUES = frozenset(("nr-io-queues", "nr-write-queues", "nr-poll-queues", "queue-size"))

OPTIONS = (
    Option("transport", "address", "transport", "t"),
    Option("nqn", "identity", "nqn", "n"),
    Option("traddr", "address", "traddr", "a"),
    Option("trsvcid", "address", "trsvcid", "s"),
    Option("host-traddr", "address", "host-traddr", "w"),
    Option("host-iface", "address", "host-iface", "f"),
    Option("hostnqn", "identity", "hostnqn", "q"),
    Option("hostid", "identity", "hostid", "I"),
    Option("dhchap-secret", "secret", "kxchap-secret", "S"),
    Option("dhchap-ctrl-secret", "secret", "kxchap-ctrl-secret", "C"),
    Option("keyring", "text", "keyring"),
    Option("tls-key", "secret", "tls-key"),
    Option("tls-key-identity", "text", "tls-key-identity"),
    *(Option(name, "int", name, short) for name, short in _INTEGERS.items()),
    _flag("duplicate-connect", "flag", "duplicate-connect", "D"),
    _flag("disable-sqflow", "flag", "disable-sqflow"),
    _flag("hdr-digest", "flag", "hdr-digest", "g"),
    _flag("data-digest", "flag", "data-digest", "G"),
    _flag("tls", "flag", "tls"),
    _flag("concat", "flag", "concat"),
    _flag("persistent", "persistent", "persistent", "p"),
    Option("output-format", "output", "", "o"),
    Option("raw", "output", "", "r"),
    _flag("quiet", "output"),
    _flag("verbose", "output", short="v"),
    _flag("force", "output"),
)
LONG = {option.name: option for option in OPTIONS}
SHORT = {option.short: option for option in OPTIONS if option.short}

# Those that belong in a section of nvme-fabrics.conf and not on a path.
SECTION_FLAGS = ("tls", "concat")


class BadValueError(ValueError):
    """A value that an option does not take; the text says why, and shows no secret."""


def named(word: str) -> Option | None:
    """Return the long option of this name, or the only one that it is the beginning of, as getopt_long(3) does."""
    name = word.replace("_", "-")
    if name in LONG:
        return LONG[name]
    found = [option for option in OPTIONS if name and option.name.startswith(name)]
    return found[0] if len(found) == 1 else None


def number(option: Option, text: str) -> str:
    """Return the canonical number, '' where it leaves the decision to the kernel. Raises BadValueError."""
    value = parse_int(text)
    if value is None:
        raise BadValueError(f"{quote(text)} is not a whole number; write one")
    if option.name == "ctrl-loss-tmo":
        return str(max(value, -1))
    if option.name == "fast-io-fail-tmo":
        return str(max(value, -1)) if value else ""
    if option.name == "tos":
        return str(value) if value >= 0 else ""
    return str(value) if value > 0 else ""


def check_text(value: str) -> str:
    """Return ``value`` if it can stand in a line of nvme-fabrics.conf as it is. Raises BadValueError.

    A semicolon would begin another part of a path, and a line break another line.
    """
    if not value.isprintable() or ";" in value or value != value.strip():
        raise BadValueError("it holds a semicolon, white space at an end or a control character; write it without")
    return value
