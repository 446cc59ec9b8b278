# SPDX-License-Identifier: Apache-2.0
"""Which files count where some have mistakes: a mistake takes nothing away that was good before.

A file with a mistake counts as it was when it was good last, all others as they are. So what an administrator has
removed is gone, unless it stood in a file that he made a mistake in, and then his mistake is told. A reload takes no
file if one of them has a mistake that is new.

A mistake is an error, and also a line without effect that was not there before, in a file from which something has gone
since: nvme-cli ignores a key that it does not know, and a path whose key is misspelt is gone all the same.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..kernel.controllers import canonical_nqn
from . import keys
from .errors import Diagnostic
from .fabrics import parse_fabrics
from .files import Files
from .identity import HostIdentity, is_absent, parse_host_identity
from .model import FabricsConfig
from .sections import FabricsFile, parse_file
from .settings import Settings, keys_of, parse_settings
from .sources import SourceFile
from .usable import secret_problem

# What a file says: in which section, and what.
_Said = frozenset[tuple[str, str]]
_Mistakes = dict[str, tuple[Diagnostic, ...]]


@dataclass(frozen=True, slots=True)
class Kept:
    """A file that counts as it was before, and the first mistake in it as it is."""

    path: str
    mistake: Diagnostic


@dataclass(frozen=True, slots=True)
class Settled:
    """What counts, as it is understood, and what was decided about the files with mistakes.

    ``now`` are the files as they are, and ``good`` those that count and have no mistake: what is to be remembered.
    ``mistakes`` are those in the files as they are, and ``complaints`` all that is to be told about them.
    """

    now: Files
    good: Files
    settings: Settings
    fabrics: FabricsConfig
    host: HostIdentity
    mistakes: tuple[Diagnostic, ...]
    kept: tuple[Kept, ...]
    complaints: tuple[Diagnostic, ...]


@dataclass(frozen=True, slots=True)
class _Choice:
    """Of files that are understood together: those that count, those of them that are good, and why not the others.

    ``told`` are the complaints about the files that were kept.
    """

    counting: tuple[SourceFile, ...]
    good: tuple[SourceFile, ...]
    mistakes: _Mistakes
    kept: tuple[Kept, ...]
    told: tuple[Diagnostic, ...]


def settle(now: Files, before: Files | None = None) -> Settled:
    """Decide which files count: of those that are there ``now``, and those that were good ``before``. Pure.

    Where nothing is known of before, each file without an error counts as it is.
    """
    before = before or Files()
    connections = _choose_connections(now.fabrics, before.fabrics)
    fabrics = parse_fabrics(connections.counting)
    others = _choose_settings(now.settings, before.settings)
    settings, faults = parse_settings(others.counting)
    identity = _choose_identity(now.identity, before.identity)
    host = parse_host_identity(*identity.counting) if identity.counting else HostIdentity("", "")
    earlier = {
        source.path: f"as the file was before the mistake in line {kept.mistake.line}"
        if kept.mistake.line
        else "as the file was before its mistake"
        for kept in connections.kept
        for source in _under(kept.path, connections.good)
    }
    choices = (connections, others, identity)
    complaints = (
        *_of_the_present(fabrics.diagnostics, connections),
        *_of_the_present(faults, others),
        *_of_the_present(host.diagnostics, identity),
    )
    return Settled(
        now,
        Files(others.good, connections.good, identity.good),
        settings,
        replace(fabrics, valid=fabrics.valid and not connections.mistakes, earlier=earlier),
        host,
        tuple(one for choice in choices for some in choice.mistakes.values() for one in some),
        tuple(one for choice in choices for one in choice.kept),
        complaints,
    )


def refusing(settled: Settled, in_force: Settled) -> tuple[Diagnostic, ...]:
    """Return the mistakes by which a reload is refused: those that are new since what is in force was taken.

    An old one changes nothing, whatever else is taken: its file goes on counting as it does. In a file that was edited
    since no mistake is old, for the edit would not count, and who made it is to know. Pure.
    """
    then = {source.path: source for source in in_force.now.all}
    now = {source.path: source for source in settled.now.all}
    old = set(in_force.mistakes)

    def is_old(one: Diagnostic) -> bool:
        source = now[one.path]
        if is_absent(source) and source in settled.now.identity and not in_force.good.identity:
            return True
        return one in old and then.get(one.path) == source

    return tuple(one for one in settled.mistakes if not is_old(one))


# Connections ----------------------------------------------------------------------------------------------


def _choose_connections(now: Sequence[SourceFile], before: Sequence[SourceFile]) -> _Choice:
    """An earlier version counts where it contradicts no file that is good as it is."""
    files = {source.path: parse_file(source) for source in now}
    told: _Mistakes = {path: tuple(file.report.diagnostics) for path, file in files.items() if file.report.broken}
    good = [source for source in now if source.path not in told]
    # Of two that contradict each other, the later one is at fault.
    found = parse_fabrics(good).diagnostics
    told |= _by_file(found, {one.path for one in found if one.severity == "error"})
    good = [source for source in good if source.path not in told]
    told |= _lost(parse_fabrics(good), files, before)
    good = [source for source in good if source.path not in told]
    return _with_earlier(now, good, before, told, lambda sources: parse_fabrics(sources).valid)


def _lost(config: FabricsConfig, files: Mapping[str, FabricsFile], before: Sequence[SourceFile]) -> _Mistakes:
    then = parse_fabrics(before)
    known = {(one.path, one.message) for one in then.diagnostics}
    news = [one for one in config.diagnostics if one.ignored and (one.path, one.message) not in known]
    earlier = {source.path: _said(parse_file(source), then) for source in before}
    mistakes: _Mistakes = {}
    for path in dict.fromkeys(one.path for one in news):
        if gone := earlier.get(path, frozenset()) - _said(files[path], config):
            mistakes[path] = _as_mistakes((one for one in news if one.path == path), gone)
    return mistakes


def _said(file: FabricsFile, config: FabricsConfig) -> _Said:
    """Return what a file says that can be acted upon, without the values: another value takes nothing away."""
    useless = {one.line for one in config.connections if one.file == file.path and one.problem}
    found = {(section, name) for section, settings in file.settings.items() for name in _usable(settings)}
    found |= {(keys.HOST, name) for name in file.identity}
    for endpoint in file.endpoints:
        place = f"{endpoint.section} {canonical_nqn(endpoint.nqn)}".rstrip()
        found |= {(place, name) for name in _usable(endpoint.settings)}
        for path in endpoint.paths:
            if path.line in useless:
                continue
            given = (path.transport, path.traddr, path.trsvcid, path.host_traddr, path.host_iface)
            what = f"the path to {' '.join(text for text in given if text)}"
            found |= {(place, what), *((place, f"{name} of {what}") for name in path.settings)}
    return frozenset(found)


def _usable(settings: Mapping[str, str]) -> list[str]:
    return [name for name, value in settings.items() if name not in keys.DHCHAP or not secret_problem(name, value)]


# Settings -------------------------------------------------------------------------------------------------


def _choose_settings(now: Sequence[SourceFile], before: Sequence[SourceFile]) -> _Choice:
    told: _Mistakes = {}
    earlier = {source.path: source for source in before}
    for source in now:
        found = parse_settings([source])[1]
        if any(one.severity == "error" for one in found):
            told[source.path] = found
        elif then := earlier.get(source.path):
            known = {one.message for one in parse_settings([then])[1]}
            news = [one for one in found if one.ignored and one.message not in known]
            gone = frozenset(("Global", name) for name in keys_of(then) - keys_of(source))
            if news and gone:
                told[source.path] = _as_mistakes(news, gone)
    good = [source for source in now if source.path not in told]
    choice = _with_earlier(now, good, before, told, lambda _: True)
    # A bad value is told with the one that is used in its place.
    used = parse_settings(choice.counting)[0]
    retold = {
        source.path: parse_settings([source], used)[1]
        for source in now
        if any(one.severity == "error" for one in parse_settings([source])[1])
    }
    return replace(choice, told=tuple(one for kept in choice.kept for one in retold.get(kept.path, told[kept.path])))


# The host's identity --------------------------------------------------------------------------------------


def _choose_identity(now: Sequence[SourceFile], before: Sequence[SourceFile]) -> _Choice:
    """Both files count as they are, or both as they were: an NQN goes with its own ID.

    One that is missing or empty is no mistake that anything is kept for: so an image of a host is made to be given
    another identity, and what it was made from must not have its twin.
    """
    found = parse_host_identity(*now).diagnostics if now else ()
    told = _by_file(found, {one.path for one in found})
    errors = {path: tuple(one for one in some if one.severity == "error") for path, some in told.items()}
    faulty = [source for source in now if source.path in told]
    if not faulty:
        return _Choice(tuple(now), tuple(now), {}, (), ())
    if before and not any(map(is_absent, faulty)) and not parse_host_identity(*before).diagnostics:
        kept = tuple(Kept(path, some[0]) for path, some in errors.items())
        return _Choice(tuple(before), tuple(before), errors, kept, found)
    return _Choice(tuple(now), (), errors, (), ())


# Common to all --------------------------------------------------------------------------------------------


def _with_earlier(
    now: Sequence[SourceFile],
    good: Sequence[SourceFile],
    before: Sequence[SourceFile],
    told: _Mistakes,
    agree: Callable[[Sequence[SourceFile]], bool],
) -> _Choice:
    """Add to the good files, of each with a mistake, how it was before if that is known, and else how it is.

    ``told`` has all that is to be told about the files with mistakes, and ``agree`` tells whether files contradict each
    other.
    """
    chosen, rest = list(good), []
    kept: list[Kept] = []
    complaints: list[Diagnostic] = []
    mistakes = {path: tuple(one for one in some if one.severity == "error") for path, some in told.items()}
    versions = {path: _under(path, before) for path in told}
    # Mostly they all agree, and there may be hundreds.
    all_agree = agree(_in_order([*good, *(one for some in versions.values() for one in some)]))
    for source in now:
        if source.path not in told:
            continue
        with_it = _in_order([*chosen, *versions[source.path]])
        if versions[source.path] and (all_agree or agree(with_it)):
            chosen = with_it
            kept.append(Kept(source.path, mistakes[source.path][0]))
            complaints += told[source.path]
        else:
            rest.append(source)
    ordered = {path: mistakes[path] for path in (source.path for source in now) if path in mistakes}
    chosen = _in_order(chosen)
    return _Choice(tuple(_in_order([*chosen, *rest])), tuple(chosen), ordered, tuple(kept), tuple(complaints))


def _in_order(sources: Iterable[SourceFile]) -> list[SourceFile]:
    return sorted(sources, key=lambda source: (source.drop_in, os.fsencode(source.path)))


def _under(path: str, sources: Iterable[SourceFile]) -> list[SourceFile]:
    """Return the file of this path, or the files in it where it is a directory that cannot be read."""
    return [one for one in sources if one.path == path or one.path.rpartition("/")[0] == path]


def _by_file(found: Iterable[Diagnostic], paths: Iterable[str]) -> _Mistakes:
    found = tuple(found)
    return {path: tuple(one for one in found if one.path == path) for path in sorted(paths)}


def _as_mistakes(ignored: Iterable[Diagnostic], gone: _Said) -> tuple[Diagnostic, ...]:
    section, what = min(gone)
    more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
    text = f"and {what} in [{section}]{more}, which stood in this file, is missing"
    return tuple(replace(one, severity="error", message=f"{one.message}, {text}") for one in ignored)


def _of_the_present(found: Iterable[Diagnostic], choice: _Choice) -> list[Diagnostic]:
    """Return what is to be told about the files as they are. ``found`` is about those that count."""
    kept = {source.path for one in choice.kept for source in _under(one.path, choice.good)}
    return [*(one for one in found if one.path not in kept), *choice.told]
