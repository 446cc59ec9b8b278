# SPDX-License-Identifier: Apache-2.0
"""Which controllers a word on the command line means."""

import difflib
from collections.abc import Iterable, Sequence

from discoverd.cli.exits import CliError, Exit
from discoverd.cli.overview import Controller, Overview
from discoverd.tid import UNIT_PREFIX, UNIT_SUFFIX

_SHOWN = 5


def choose(words: Iterable[str], overview: Overview) -> list[Controller]:
    """Return the controllers that the words mean, each once.

    A word is an instance, a unit's name, a kernel device or a subsystem NQN, which means all its paths. Raises
    CliError for a word that means nothing.
    """
    chosen: dict[str, Controller] = {}
    for word in words:
        meant = matches(word, overview.controllers)
        if not meant:
            raise CliError(_unknown(word, overview.controllers), Exit.UNKNOWN)
        chosen.update((_key(one), one) for one in meant)
    return list(chosen.values())


def matches(word: str, controllers: Sequence[Controller]) -> list[Controller]:
    """Return the controllers that a word means, none where it means nothing."""
    device = word.removeprefix("/dev/")
    instance = word.removeprefix(UNIT_PREFIX)
    instance = instance.removesuffix(UNIT_SUFFIX) if instance != word else instance
    by_device = [one for one in controllers if one.device and one.device.name == device]
    by_name = [one for one in controllers if one.name in (instance, word.removesuffix(UNIT_SUFFIX))]
    return by_device or by_name or [one for one in controllers if one.subsysnqn == word]


def _key(controller: Controller) -> str:
    return f"{controller.name} {controller.device.name if controller.device else ''}"


def _unknown(word: str, controllers: Sequence[Controller]) -> str:
    names = [one.name for one in controllers]
    names += [one.device.name for one in controllers if one.device]
    names += [one.subsysnqn for one in controllers]
    if not names:
        return f"there is no controller {word}, and no other one; see what is wrong: discoverctl status"
    near = difflib.get_close_matches(word, dict.fromkeys(names), n=_SHOWN, cutoff=0.5)
    if not near:
        near = list(dict.fromkeys(one.name for one in controllers))[:_SHOWN]
        return f"there is no controller {word}; there are, for example, {', '.join(near)}; for all: discoverctl list"
    return f"there is no controller {word}; perhaps you mean {' or '.join(near)}; for all: discoverctl list"
