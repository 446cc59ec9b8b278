# SPDX-License-Identifier: Apache-2.0
"""``discoverctl config show``: each value that the configuration gives, with the file and line where it stands.

Nothing that is, or could have been meant as, a secret is shown: neither the value of a key that holds one, nor that of
a key that nobody knows, which may be such a key with a mistake in it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from discoverd import exclusions
from discoverd.cli import text
from discoverd.cli.exits import CliError, Exit
from discoverd.config import fabrics, identity, keys, settings
from discoverd.config.fabrics import FABRICS_CONF
from discoverd.config.ini import Entry, entries, key_name
from discoverd.config.settings import SETTINGS_CONF
from discoverd.config.sources import SourceFile, read_drop_ins, read_file, read_tree

SECRET, UNKNOWN = "<secret>", "<not shown: the key is unknown>"
_DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Value:
    """A value: ``place`` is ``file:line``, or that it is the default."""

    section: str
    key: str
    value: str
    place: str


def show(directory: Path, json: bool) -> Exit:
    """Print what is set, and the daemon's settings that are not. Raises CliError for a file that may not be read."""
    found = list(values(directory))
    if json:
        rows = [{"section": one.section, "key": one.key, "value": one.value, "place": one.place} for one in found]
        text.document({"version": 1, "values": rows})
        return Exit.OK
    text.table(("SECTION", "KEY", "VALUE", "PLACE"), [(one.section, one.key, one.value, one.place) for one in found])
    return Exit.OK


def values(directory: Path) -> Iterator[Value]:
    """Yield all values: who the host is, the daemon's settings, connections, exclusions. Raises CliError."""
    for name in ("hostnqn", "hostid"):
        source = read_file(directory / name)
        if source and not source.fault:
            first = source.data.split(b"\n", 1)[0].decode(errors="replace").strip()
            yield Value("", name, first, f"{source.path}:1")
    yield from _settings(_readable(read_tree(directory / SETTINGS_CONF.name)))
    yield from _fabrics(_readable(read_tree(directory / FABRICS_CONF.name)))
    if directory.resolve() == identity.DIRECTORY.resolve():
        # What discoverctl connect has written is read beside this directory only.
        yield from _fabrics(_readable(read_drop_ins(fabrics.RUNTIME_DROP_INS)))
    for entry in exclusions.load(str(directory)).entries:
        written = ";".join(f"{key}={value}" for key, value in entry.fields.items())
        yield Value(exclusions.SECTION, exclusions.KEY, written, entry.text)


def _readable(sources: Iterable[SourceFile]) -> list[SourceFile]:
    found = list(sources)
    for source in found:
        if source.denied:
            raise CliError(f"{source.path} {source.fault}; run it as root", Exit.NOT_PERMITTED)
    return found


def _settings(sources: list[SourceFile]) -> Iterator[Value]:
    """Yield the value of each setting that is in force, where the last line that gives it stands."""
    given, _ = settings.parse_settings(sources)
    places = {}
    for source in sources:
        for section, entry in entries(source):
            if section == settings.SECTION and entry.value:
                places[entry.key] = f"{source.path}:{entry.line}"
            elif section == settings.SECTION:
                places.pop(entry.key, None)
    for key in settings.KEYS:
        yield Value(settings.SECTION, key, settings.shown(given, key), places.get(key, _DEFAULT))


def _fabrics(sources: list[SourceFile]) -> Iterator[Value]:
    for source in sources:
        for section, entry in entries(source):
            yield Value(section, _name(entry.key), _value(entry), f"{source.path}:{entry.line}")


def _value(entry: Entry) -> str:
    if entry.key == "controller":
        return ";".join(_token(one) for one in entry.value.split(";"))
    return _shown(entry.key, entry.value)


def _token(token: str) -> str:
    """Return a part of a controller line."""
    name, equals, value = (part.strip() for part in token.partition("="))
    if not equals:
        return UNKNOWN if name else ""
    return f"{name}={value}" if name in keys.ADDRESS_KEYS else f"{_name(name)}={_shown(name, value)}"


def _name(key: str) -> str:
    """Return a key, unless it may be a secret that ended up on the wrong side of an '='."""
    return key_name(key).strip('"')


def _shown(name: str, value: str) -> str:
    key = keys.KEYS.get(keys.OLDER_NAMES.get(name, name))
    if key is None:
        return UNKNOWN if value else ""
    return SECRET if key.secret and value else value
