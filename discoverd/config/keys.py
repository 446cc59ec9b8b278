# SPDX-License-Identifier: Apache-2.0
"""The keys of nvme-fabrics.conf: what values each takes, and in which sections it may stand (nvme-cli 3)."""

import re
from dataclasses import dataclass
from typing import Literal

from .errors import quote
from .ini import comment_hint

HOST = "Host"
DISCOVERY = "Discovery Controller"
SUBSYSTEM = "Subsystem"
DISCOVERY_DEFAULTS = "Discovery Controller Defaults"
IO_DEFAULTS = "I/O Controller Defaults"
SECTIONS = (HOST, DISCOVERY_DEFAULTS, IO_DEFAULTS, DISCOVERY, SUBSYSTEM)

Kind = Literal["int", "bool", "text", "persistent", "nqn", "hostid", "controller"]

_EVERYWHERE = frozenset(SECTIONS)
_ENDPOINTS = frozenset((DISCOVERY, SUBSYSTEM))
_HOST_ONLY = frozenset((HOST,))
_DISCOVERY_ONLY = frozenset((DISCOVERY, DISCOVERY_DEFAULTS))

_TRUE = frozenset(("1", "yes", "y", "true", "t", "on"))
_FALSE = frozenset(("0", "no", "n", "false", "f", "off"))
_INT = re.compile(r"([+-]?)(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))")
_INT_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Key:
    """One key. ``on_path``: a ``controller=`` line may set it too; ``secret``: its value is never shown."""

    name: str
    kind: Kind
    sections: frozenset[str]
    on_path: bool = False
    secret: bool = False


TUNABLES = (
    *(
        Key(name, "int", _EVERYWHERE, on_path=True)
        for name in (
            "nr-io-queues",
            "nr-write-queues",
            "nr-poll-queues",
            "queue-size",
            "keep-alive-tmo",
            "reconnect-delay",
            "ctrl-loss-tmo",
            "fast-io-fail-tmo",
            "tos",
        )
    ),
    *(
        Key(name, "bool", _EVERYWHERE, on_path=True)
        for name in ("duplicate-connect", "disable-sqflow", "hdr-digest", "data-digest")
    ),
)

SECURITY = (
    Key("tls", "bool", _EVERYWHERE),
    Key("concat", "bool", _EVERYWHERE),
    Key("tls-key", "text", _EVERYWHERE, secret=True),
    Key("tls-key-identity", "text", _EVERYWHERE),
    Key("keyring", "text", _EVERYWHERE),
    Key("kxchap-secret", "text", _EVERYWHERE, secret=True),
    Key("kxchap-ctrl-secret", "text", _EVERYWHERE, secret=True),
)

# Secrets for in-band authentication.
DHCHAP = ("kxchap-secret", "kxchap-ctrl-secret")

KEYS = {
    key.name: key
    for key in (
        *TUNABLES,
        *SECURITY,
        Key("persistent", "persistent", _DISCOVERY_ONLY, on_path=True),
        Key("hostnqn", "nqn", _HOST_ONLY),
        Key("hostid", "hostid", _HOST_ONLY),
        Key("hostsymname", "text", _HOST_ONLY),
        Key("nqn", "nqn", _ENDPOINTS),
        Key("controller", "controller", _ENDPOINTS),
    )
}

# The names that TP 4201 replaced. nvme-cli 3 ignores them in this file.
OLDER_NAMES = {"dhchap-secret": "kxchap-secret", "dhchap-ctrl-secret": "kxchap-ctrl-secret"}

ADDRESS_KEYS = ("transport", "traddr", "trsvcid", "host-traddr", "host-iface")


class BadValueError(ValueError):
    """A value that its key does not take; ``hint`` says what it does take."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def canonical_value(key: Key, value: str) -> str:
    """Return the canonical text of a tunable, security or ``persistent`` value; '' (reset) stays ''.

    Integers, as strtol with base 0 reads them and within a C int, come back decimal; booleans as ``true`` or
    ``false``. Raises BadValueError.
    """
    if not value:
        return ""
    word = value.lower()
    if key.kind == "int":
        number = parse_int(value)
        if number is None:
            raise _fault(key, value, "a whole number")
        return str(number)
    if key.kind == "bool":
        flag = parse_bool(value)
        if flag is None:
            raise _fault(key, value, "true or false")
        return "true" if flag else "false"
    if key.kind == "persistent":
        if word not in ("no", "auto", "force"):
            raise _fault(key, value, "no, auto or force")
        return word
    return "" if word == "none" else value


def parse_bool(text: str) -> bool | None:
    """Return the truth that a word stands for; None if it stands for none."""
    word = text.lower()
    return True if word in _TRUE else False if word in _FALSE else None


def parse_int(text: str) -> int | None:
    """Return the number that strtol(3) with base 0 finds in all of ``text``; None if none fits a C int."""
    match = _INT.fullmatch(text)
    if not match or len(text) > 100:
        return None
    sign, hexadecimal, octal, decimal = match.groups()
    number = int(hexadecimal, 16) if hexadecimal else int(octal, 8) if octal else int(decimal)
    number = -number if sign == "-" else number
    return number if -_INT_MAX - 1 <= number <= _INT_MAX else None


def _fault(key: Key, value: str, wanted: str) -> BadValueError:
    return BadValueError(f"{key.name} = {quote(value)} is not {wanted}", comment_hint(value) or f"write {wanted}")
