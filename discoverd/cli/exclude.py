# SPDX-License-Identifier: Apache-2.0
"""``discoverctl exclude`` and ``unexclude``: what is not to be connected, whoever asks for it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from discoverd import exclusions
from discoverd.cli import choose, exclusion_lists, listing, plan_file, text
from discoverd.cli.exits import CliError, Exit
from discoverd.cli.overview import Controller, Overview
from discoverd.config.identity import load_host_identity
from discoverd.exclusions import KEYS, Entry, Exclusions
from discoverd.tid import TidError, check_peer_nqn

# What says which controller is meant, and nothing of this host's identity, as other tools write it.
_OF_A_CONTROLLER = ("transport", "traddr", "trsvcid", "nqn", "host-iface")
# The daemon reads the lists a second after the last edit of them, and ten seconds after the first at the latest.
_TAKE_UP_SECONDS = 15.0
_POLL_SECONDS = 0.05

# A controller that an exclusion applies to, and what becomes of it.
_Hit = tuple[Controller, str]


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a word on the command line means: exclusions, and the controllers, where it ``names`` some.

    An NQN may name none that there is now.
    """

    entries: tuple[str, ...]
    names: bool = False
    controllers: tuple[Controller, ...] = ()


def exclude(words: Sequence[str], overview: Overview, name: str, dry_run: bool, json: bool) -> Exit:
    """Write exclusions into the list ``name`` ('' is the default one), or only say what they would hit.

    Raises CliError if one of them could exclude nothing, before anything is written.
    """
    entries = list(dict.fromkeys(entry for word in words for entry in _understand(word, overview).entries))
    new = Exclusions([Entry("", 0, _sound(entry)) for entry in entries], [])
    before = exclusions.load(exclusions.ROOT)
    if dry_run:
        places = [(exclusion_lists.path(exclusions.ROOT, name), True) for _ in entries]
    else:
        places = exclusion_lists.add(exclusions.ROOT, name, entries)
    hit = [(one, _effect(one, before)) for one in overview.controllers if new.match(_options(one))]
    if json:
        _document(entries, places, hit, not dry_run)
    else:
        _print(entries, places, hit, not dry_run)
    return Exit.OK


def _sound(entry: str) -> dict[str, str]:
    fields, sentence = exclusions.understand(entry)
    if sentence:
        raise CliError(f"{entry}: {sentence}", Exit.USAGE)
    return fields


def _document(entries: list[str], places: list[tuple[str, bool]], hit: list[_Hit], written: bool) -> None:
    rows = zip(entries, places, strict=True)
    text.document(
        {
            "version": listing.VERSION,
            "written": written,
            "exclusions": [{"exclusion": entry, "place": place, "new": new} for entry, (place, new) in rows],
            "controllers": [{**listing.summary(one), "effect": effect} for one, effect in hit],
        }
    )


def _print(entries: list[str], places: list[tuple[str, bool]], hit: list[_Hit], written: bool) -> None:
    for entry, (place, new) in zip(entries, places, strict=True):
        said = "would be added: " if not written else "" if new else "is there already: "
        text.line(f"{place}: {said}{exclusions.KEY} = {entry}")
    if hit:
        rows = [(one.state, one.device.name if one.device else "", one.name, effect) for one, effect in hit]
        text.table(("STATE", "DEVICE", "CONTROLLER", "EFFECT"), rows)
    text.line(f"{text.count(len(hit), 'controller')}, {sum(one.live for one, _ in hit)} live")
    connected = [one.device.name for one, _ in hit if one.device and not one.device.foreign]
    if connected and written:
        text.line(f"To disconnect what is connected: discoverctl disconnect {' '.join(connected)}")


def unexclude(words: Sequence[str], overview: Overview) -> Exit:
    """Take exclusions out of all lists, wait until discoverd goes by that, and say what still excludes what was meant.

    Returns FAILED if one is still excluded, UNKNOWN if there was nothing to take out, TIMED_OUT if discoverd still goes
    by the lists as they were.
    """
    asked = {word: _understand(word, overview) for word in words}
    vain = [word for word, meant in asked.items() if not _remove(meant.entries)]
    left = exclusions.load(exclusions.ROOT)
    result = _taken_up(overview, left) if len(vain) < len(asked) else Exit.OK
    for word, meant in asked.items():
        still = Exit.OK
        for controller in meant.controllers:
            still = max(still, _say_left(controller.name, _matching(left, _options(controller))))
        if meant.names and not meant.controllers:
            still = _say_left(word, [entry for entry in left.entries if entry.fields.get("nqn") == word])
        if word in vain and still is Exit.OK:
            what = f"no list has an exclusion of {word}" if meant.names else f"no list has the exclusion {word}"
            text.remark(f"{what}; to see what excludes a controller: discoverctl why CONTROLLER")
            still = Exit.UNKNOWN
        result = max(result, still)
    return result


def _taken_up(overview: Overview, left: Exclusions) -> Exit:
    """Wait until discoverd excludes nothing any more of what the lists do not. Without a plan nobody is waited for."""
    freed = [one.name for one in overview.controllers if one.excluded and not left.match(_options(one))]
    deadline = time.monotonic() + _TAKE_UP_SECONDS
    while freed:
        plan = plan_file.read()
        freed = [name for name in freed if (one := plan.controllers.get(name)) is not None and one.excluded_by]
        if not freed or plan.fault:
            break
        if time.monotonic() > deadline:
            text.remark(f"discoverd does not take that up, {freed[0]} among others; see: systemctl status discoverd")
            return Exit.TIMED_OUT
        time.sleep(_POLL_SECONDS)
    return Exit.OK


def _remove(entries: Sequence[str]) -> bool:
    """Take entries out, those that say the same in other words too. Returns whether there was one."""
    meanings = [fields for fields, _ in map(exclusions.understand, entries) if fields]
    removed = exclusion_lists.remove(
        exclusions.ROOT, lambda written: written in entries or exclusions.understand(written)[0] in meanings
    )
    for place, written in removed:
        text.line(f"{place}: removed: {exclusions.KEY} = {written}")
    return bool(removed)


def _say_left(name: str, entries: list[Entry]) -> Exit:
    for entry in entries:
        written = text.quoted(";".join(f"{key}={value}" for key, value in entry.fields.items()))
        text.line(f"{name} is still excluded by {entry.text}; to remove that: discoverctl unexclude {written}")
    if not entries:
        text.line(f"{name} is not excluded")
    return Exit.FAILED if entries else Exit.OK


def _understand(word: str, overview: Overview) -> _Asked:
    """Return what a word means. Raises CliError for one that means nothing."""
    if word.startswith("nqn."):
        try:
            entry = _entry({"nqn": check_peer_nqn(word)})
        except TidError as error:
            raise CliError(f"{error}; give it as the target spells it", Exit.USAGE) from None
        return _Asked((entry,), True, tuple(one for one in overview.controllers if one.subsysnqn == word))
    if nqn := choose.subsystem(word, overview.controllers):
        return _understand(nqn, overview)
    meant = choose.matches(word, overview.controllers)
    if not meant and "=" in word:
        return _Asked((word.strip(" \t\n\v\f\r"),))
    meant = choose.choose([word], overview)
    return _Asked(tuple(dict.fromkeys(_entry_of(one) for one in meant)), True, tuple(meant))


def _entry_of(controller: Controller) -> str:
    options = _options(controller)
    found = {key: options.get(KEYS[key], "") for key in _OF_A_CONTROLLER}
    return _entry({key: value for key, value in found.items() if value})


def _entry(fields: dict[str, str]) -> str:
    written = ";".join(f"{key}={value}" for key, value in fields.items())
    if exclusions.understand(written)[0] != fields:
        raise CliError(f"{written} cannot be an exclusion; exclude its address instead: traddr=ADDRESS", Exit.USAGE)
    return written


def _options(controller: Controller) -> dict[str, str]:
    """Return the fabrics options with which a controller would be connected again."""
    planned, device = controller.planned, controller.device
    if controller.spec:
        return dict(controller.spec.options)
    if planned and planned.subsysnqn:
        host = load_host_identity()
        # The mark of an instance for another host's name than this one's.
        own = not controller.name.rpartition(":")[2].startswith("host-")
        return {
            "nqn": planned.subsysnqn,
            "transport": planned.transport,
            "traddr": planned.traddr,
            "trsvcid": planned.trsvcid,
            "host_traddr": planned.host_traddr,
            "host_iface": planned.host_iface,
            "hostnqn": host.hostnqn if own else "",
            "hostid": host.hostid if own else "",
        }
    if device:
        names = ("transport", "traddr", "trsvcid", "host_traddr", "host_iface", "hostnqn", "hostid")
        return {"nqn": device.kernel.subsysnqn, **{name: getattr(device.kernel, name) for name in names}}
    return {}


def _effect(controller: Controller, before: Exclusions) -> str:
    """Say what becomes of a controller."""
    if where := before.match(_options(controller)):
        effect = f"is excluded by {where} already"
        return effect + ("; stays connected" if controller.device else "")
    device = controller.device
    if device and device.foreign:
        return f"stays connected; it is for {device.owner} to honour this"
    if device:
        return "stays connected, and is not connected again once it is lost"
    if controller.unit and controller.unit.running:
        return "is not tried any more"
    return "is not connected"


def _matching(found: Exclusions, options: dict[str, str]) -> list[Entry]:
    return [entry for entry in found.entries if Exclusions([entry], []).match(options)]
