# SPDX-License-Identifier: Apache-2.0
"""Which controllers a word on the command line means."""

import difflib
import fnmatch
import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence

from discoverd.cli import place
from discoverd.cli.exits import CliError, Exit
from discoverd.cli.overview import Controller, Overview
from discoverd.kernel.controllers import canonical_nqn, same_address
from discoverd.tid import UNIT_PREFIX, UNIT_SUFFIX, TidError, canonical_address

# Names that are proposed for one that means nothing, or more than one thing.
_SHOWN = 5
# A shorter part of an NQN is more likely a slip.
_PART_LENGTH = 3
_WILDCARDS = re.compile(r"[*?\[]")
# What has the form of a controller, a path or a namespace of it, or a device on one.
_DEVICE = re.compile(r"(nvme[0-9]+(c[0-9]+)?|ng[0-9]+(c[0-9]+)?|dm-[0-9]+)(n[0-9]+)?(p[0-9]+)?")
_FOUR_NUMBERS = re.compile(r"[0-9]+(\.[0-9]+){3}")


def choose(words: Iterable[str], overview: Overview) -> list[Controller]:
    """Return the controllers that the words mean, each once.

    Raises CliError for a word that means nothing, or that is a part of the NQNs of several subsystems.
    """
    chosen: dict[str, Controller] = {}
    for word in words:
        meant = matches(word, overview.controllers)
        if not meant:
            raise _unknown(word, overview.controllers)
        chosen.update((_key(one), one) for one in meant)
    return list(chosen.values())


def matches(word: str, controllers: Sequence[Controller], places: bool = True) -> list[Controller]:
    """Return the controllers that a word means, none where it means nothing.

    A word is, and the first that fits counts: a kernel device; an instance, or a unit's name; a subsystem's NQN, which
    means all its paths; an address, or address and port; a namespace or what lies on one (discoverd.cli.place); a
    pattern of the shell for the names of a controller; a part of one subsystem's NQN (:func:`is_part`). Raises CliError
    for a part of several. Without ``places`` a word is no namespace, and nothing that lies on one.
    """
    return _whole(word, controllers, places) or _by_part(word, controllers)


def subsystem(word: str, controllers: Sequence[Controller]) -> str:
    """Return the NQN of the subsystem that a word means as a part of it, '' for any other word. Raises CliError."""
    found = [] if _whole(word, controllers) else _by_part(word, controllers)
    return found[0].subsysnqn if found else ""


def _whole(word: str, controllers: Sequence[Controller], places: bool = True) -> list[Controller]:
    """Return the controllers that a word means otherwise than as a part of an NQN."""
    for find in (_by_device, _by_name, _by_nqn, _by_address, _by_place, _by_pattern):
        if find is _by_place and not places:
            continue
        if found := find(word, controllers):
            return found
    return []


def _by_device(word: str, controllers: Sequence[Controller]) -> list[Controller]:
    return [one for one in controllers if one.device and one.device.name == word.removeprefix("/dev/")]


def _by_name(word: str, controllers: Sequence[Controller]) -> list[Controller]:
    instance = word.removeprefix(UNIT_PREFIX)
    instance = instance.removesuffix(UNIT_SUFFIX) if instance != word else instance
    return [one for one in controllers if one.name in (instance, word.removesuffix(UNIT_SUFFIX))]


def _by_nqn(word: str, controllers: Sequence[Controller]) -> list[Controller]:
    nqn = canonical_nqn(word)
    return [one for one in controllers if one.subsysnqn and canonical_nqn(one.subsysnqn) == nqn]


def _by_address(word: str, controllers: Sequence[Controller]) -> list[Controller]:
    address, port = _split(word)
    if not address:
        return []
    return [one for one in controllers if port in ("", one.trsvcid) and _is_at(address, one)]


def _split(word: str) -> tuple[str, str]:
    """Return address and port of ``192.0.2.1:4420`` and ``[2001:db8::1]:4420``; '' where there is no port."""
    if word.startswith("["):
        address, _, rest = word[1:].partition("]")
        return address, rest.removeprefix(":")
    # An IPv6 address and one on Fibre Channel have colons of their own.
    if re.fullmatch(r"[^:]+:[0-9]+", word):
        address, _, port = word.partition(":")
        return address, port
    return word, ""


def _is_at(address: str, controller: Controller) -> bool:
    known = controller.traddr
    if known == address:
        return True  # It may be the name of a host, in what is refused.
    if "%" not in address:
        known = known.partition("%")[0]
    try:
        return known != "" and same_address(
            controller.transport, known, canonical_address(controller.transport, address)
        )
    except TidError:
        return False


def _by_place(word: str, controllers: Sequence[Controller]) -> list[Controller]:
    devices = place.devices(word)
    return [one for one in controllers if one.device and one.device.name in devices]


def _by_pattern(word: str, controllers: Sequence[Controller]) -> list[Controller]:
    if not _WILDCARDS.search(word):
        return []
    # fnmatch itself would keep tens of thousands of patterns, and the D-Bus API is asked for any number of them.
    fits = re.compile(fnmatch.translate(word)).match
    return [one for one in controllers if any(map(fits, _names(one)))]


def _names(controller: Controller) -> Iterator[str]:
    """Give what a controller is called."""
    yield controller.name
    yield controller.unit_name
    yield controller.unit_name.removesuffix(UNIT_SUFFIX)
    yield controller.subsysnqn
    if controller.traddr:
        yield controller.traddr
        address = f"[{controller.traddr}]" if ":" in controller.traddr else controller.traddr
        yield f"{address}:{controller.trsvcid}"
    if controller.device:
        yield controller.device.name


def _by_part(word: str, controllers: Sequence[Controller]) -> list[Controller]:
    nqns = sorted({one.subsysnqn for one in controllers if is_part(word, one.subsysnqn)})
    # The name that a subsystem has in its domain counts before others in whose NQN the word stands somewhere.
    found = [nqn for nqn in nqns if nqn.endswith(":" + word)] or nqns
    if len(found) > 1:
        raise CliError(
            f"{word} is a part of {len(found)} NQNs; say more of the one that is meant, or use a pattern, as in "
            f"'*{word}*', for all:",
            Exit.USAGE,
            [*found[:_SHOWN], *(["…"] if len(found) > _SHOWN else [])],
        )
    return [one for one in controllers if found and one.subsysnqn == found[0]]


def is_part(word: str, nqn: str) -> bool:
    """Tell whether a word can mean an NQN as a part of it.

    The part is made of whole components, which colons and dots separate: ``vol1``, ``example:vol1`` or ``com.example``
    of ``nqn.2024-08.com.example:vol1``, and never ``vol1`` of one that ends in ``vol10`` or ``old-vol1``. What has the
    form of another name means that or nothing: a device, an address, a path, a unit, a whole NQN. It might be gone by
    now, and something else must not stand in for it.
    """
    if len(word) < _PART_LENGTH or _is_of_another_form(word):
        return False
    return any(nqn[end : end + 1] in ("", ":", ".") for end in _ends(word, nqn))


def _ends(word: str, nqn: str) -> Iterator[int]:
    """Give where the word ends in an NQN, wherever it begins a component."""
    for start in range(len(nqn) - len(word) + 1):
        if nqn.startswith(word, start) and (not start or nqn[start - 1] in ":."):
            yield start + len(word)


def _is_of_another_form(word: str) -> bool:
    if word.startswith(("/", "[", UNIT_PREFIX)) or _DEVICE.fullmatch(word) or _is_address(_split(word)[0]):
        return True
    return word.startswith("nqn.") and ":" in word


def _is_address(word: str) -> bool:
    """Tell whether a word has the form of an address of IP or Fibre Channel, even if it cannot be one."""
    if _FOUR_NUMBERS.fullmatch(word) or word.lower().startswith(("nn-0x", "pn-0x")):
        return True
    try:
        ipaddress.ip_address(word)
    except ValueError:
        return False
    return True


def _key(controller: Controller) -> str:
    return f"{controller.name} {controller.device.name if controller.device else ''}"


def _unknown(word: str, controllers: Sequence[Controller]) -> CliError:
    if devices := place.devices(word):
        return CliError(f"{word} is on {' and '.join(sorted(devices))}, which no network leads to", Exit.UNKNOWN)
    if not controllers:
        text = f"there is no controller {word}, and no other one; see what is wrong: discoverctl status"
        return CliError(text, Exit.UNKNOWN)
    if near := nearest(word, controllers):
        return CliError(f"there is no controller {word}; for all: discoverctl list; the nearest:", Exit.UNKNOWN, near)
    some = list(dict.fromkeys(one.name for one in controllers))[:_SHOWN]
    return CliError(f"there is no controller {word}; for all: discoverctl list; some:", Exit.UNKNOWN, some)


def nearest(word: str, controllers: Sequence[Controller]) -> list[str]:
    """Return the few names of controllers that are most like a word."""
    shown: dict[str, str] = {}
    for one in controllers:
        for name in _names(one):
            if not name.startswith(UNIT_PREFIX) or word.startswith(UNIT_PREFIX):
                shown.setdefault(name, name)
        # What is remembered of an NQN is its end.
        shown.setdefault(one.subsysnqn.rpartition(":")[2], one.subsysnqn)
    near = difflib.get_close_matches(word, shown, n=_SHOWN, cutoff=0.6)
    return list(dict.fromkeys(shown[name] for name in near if shown[name]))
