# SPDX-License-Identifier: Apache-2.0
"""``discoverctl import-stas``: nvme-stas's configuration as ours, with a word on each thing that does not fit."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from discoverd import exclusions
from discoverd.cli import files, text
from discoverd.cli.exits import CliError, Exit
from discoverd.config import keys
from discoverd.config.errors import Diagnostic
from discoverd.config.fabrics import FABRICS_CONF, parse_fabrics
from discoverd.config.identity import load_host_identity
from discoverd.config.model import FabricsConfig
from discoverd.config.settings import SETTINGS_CONF, parse_settings
from discoverd.config.sources import SourceFile, read_file, read_tree
from discoverd.stas import translation
from discoverd.stas.finding import Kind
from discoverd.stas.translation import Translation

SOURCE = "/etc/stas"
TARGET = exclusions.ROOT
# Where the host's own name and ID are, wherever the result goes to.
_HOST = Path(exclusions.ROOT)
_NAME = "50-nvme-stas.conf"
_FABRICS = f"{FABRICS_CONF.name}.d/{_NAME}"
_EXCLUSIONS = f"{exclusions.DROP_INS}/{_NAME}"
_SETTINGS = f"{SETTINGS_CONF.name}.d/{_NAME}"
_TEMPORARY = ".import-stas."
_SECRET_LINE = re.compile(rf"^({'|'.join(key.name for key in keys.SECURITY if key.secret)}) = .*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _Target:
    """A file to write; with an empty content there should be none."""

    path: Path
    content: str = field(repr=False)
    mode: int
    before: SourceFile | None

    @property
    def changes(self) -> bool:
        return (self.before.data if self.before else b"") != self.content.encode() or bool(
            self.before and self.before.fault
        )


def run(source: Path, target: Path, dry_run: bool, force: bool) -> Exit:
    """Translate the files in ``source`` and write ours below ``target``. Raises CliError, and OSError from writing."""
    stas = _read(source)
    existing = _without_ours(target)
    own = load_host_identity(_HOST)
    result = translation.translate(stas, own, _HOST, parse_fabrics(existing))
    targets = _targets(target, result)
    _check(target, targets, result, existing)
    if not dry_run:
        _write(targets, force)
    _report(targets, result, dry_run)
    lost = any(one.kind is Kind.LOST for one in result.findings)
    return Exit.FAILED if lost else Exit.OK


def _read(source: Path) -> dict[str, SourceFile]:
    found = {}
    for name in translation.NAMES:
        file = read_file(source / name)
        if file and file.fault:
            denied = os.geteuid() and "denied" in file.fault
            hint = "run it as root" if denied else "mend that and try again"
            raise CliError(f"{file.path} {file.fault}; {hint}", Exit.NOT_PERMITTED if denied else Exit.FAILED)
        if file:
            found[name] = file
    if not found:
        names = ", ".join(translation.NAMES)
        raise CliError(f"{source} has none of {names}; say where they are: discoverctl import-stas --from DIR")
    return found


def _without_ours(target: Path) -> list[SourceFile]:
    return [file for file in read_tree(target / FABRICS_CONF.name) if file.path != str(target / _FABRICS)]


def _targets(target: Path, result: Translation) -> list[_Target]:
    wanted = (
        (_FABRICS, result.fabrics, 0o600 if result.secret else 0o644),
        (_EXCLUSIONS, result.exclusions, 0o644),
        (_SETTINGS, result.settings, 0o644),
    )
    return [_Target(target / name, content, mode, read_file(target / name)) for name, content, mode in wanted]


def _check(target: Path, targets: list[_Target], result: Translation, existing: list[SourceFile]) -> None:
    """Refuse to write what our own parsers find a fault in, alone or beside the files that are there."""
    fabrics, lists, settings = targets
    drop_in = SourceFile(str(fabrics.path), fabrics.content.encode(), fabrics.mode, drop_in=True)
    before = {_fault(one) for one in parse_fabrics(existing).diagnostics}
    config = _beside(existing, drop_in)
    faults = [str(one) for one in config.diagnostics if one.severity == "error" and _fault(one) not in before]
    faults += [str(one) for one in config.diagnostics if one.path == drop_in.path and one.severity == "warning"]
    faults += [str(one) for one in parse_settings([SourceFile(str(settings.path), settings.content.encode())])[1]]
    found = exclusions.parse([(exclusions.printable(str(lists.path)), lists.content.encode())])
    faults += [f"{file}:{line}: {sentence}" for file, line, sentence in found.problems]
    ours = [one for one in config.connections if one.file == drop_in.path]
    if not faults and (len(ours), len(found.entries)) != (result.controllers, result.entries):
        faults = ["not everything would be understood as it was meant"]
    if faults:
        where = f"the files in {target}" if existing else "our own rules"
        raise CliError(
            f"nothing was written, because this does not go with {where}: {'; '.join(faults[:5])}; mend that, and "
            "import again"
        )


def _beside(existing: Sequence[SourceFile], drop_in: SourceFile) -> FabricsConfig:
    """Return the configuration as it would be, the main file first and drop-ins by their names."""
    if not drop_in.data:
        return parse_fabrics(existing)
    main = [file for file in existing if not file.drop_in]
    drop_ins = sorted([*(file for file in existing if file.drop_in), drop_in], key=lambda file: os.fsencode(file.path))
    return parse_fabrics([*main, *drop_ins])


def _fault(one: Diagnostic) -> tuple[str, int, str]:
    return one.path, one.line, one.message


def _write(targets: list[_Target], force: bool) -> None:
    changed = [one for one in targets if one.changes]
    if present := [str(one.path) for one in changed if one.before]:
        if not force:
            raise CliError(
                f"nothing was written: {', '.join(present)} is there and says something else; look at the difference "
                "with --dry-run, and replace it with --force, which keeps the old one as .bak",
                Exit.REFUSED,
            )
        for one in changed:
            if one.before:
                _keep(one.path)
    for one in changed:
        if one.content:
            one.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            files.replace(one.path, one.content.encode(), one.mode, _TEMPORARY)
        else:
            one.path.unlink(missing_ok=True)


def _keep(path: Path) -> None:
    backup = path.with_name(path.name + ".bak")
    backup.unlink(missing_ok=True)
    os.link(path, backup)


def _report(targets: list[_Target], result: Translation, dry_run: bool) -> None:
    for one in targets:
        if dry_run and one.content:
            text.line(f"{one.path} (mode {one.mode:04o}) would be:")
            for line in _SECRET_LINE.sub(r"\1 = <secret>", one.content).split("\n"):
                text.line(f"    {line}".rstrip())
            text.line()
        elif one.content:
            text.line(f"{one.path}: {'written' if one.changes else 'as it was'}")
        elif one.before and not dry_run:
            text.line(f"{one.path}: removed")
    for finding in result.findings:
        text.line(str(finding))
    kinds = Counter(one.kind for one in result.findings)
    text.line(
        f"{text.count(result.controllers, 'controller')} and {text.count(result.entries, 'exclusion')} carried over; "
        f"{kinds[Kind.LOST]} not carried over, {kinds[Kind.DIFFERS]} with a difference, "
        f"{kinds[Kind.IGNORED]} that nvme-stas ignores"
    )
    if dry_run:
        text.line("Nothing was written. To write it, leave out --dry-run.")
        return
    text.line("Next, once the report is to your liking; what is connected stays connected:")
    text.line("    discoverd --check")
    text.line("    systemctl disable --now stafd.service stacd.service")
    text.line("    systemctl enable --now discoverd.service    (or, where it runs: systemctl reload discoverd.service)")
