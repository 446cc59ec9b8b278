# SPDX-License-Identifier: Apache-2.0
"""``discoverctl import-stas``: nvme-stas's configuration as ours, with a word on each thing that does not fit."""

from pathlib import Path

from discoverd import exclusions
from discoverd.cli import drop_ins, text
from discoverd.cli.drop_ins import DropIn
from discoverd.cli.exits import Exit
from discoverd.config.fabrics import FABRICS_CONF, parse_fabrics
from discoverd.config.identity import load_host_identity
from discoverd.config.settings import SETTINGS_CONF, parse_settings
from discoverd.config.sources import SourceFile, read_tree
from discoverd.stas import translation
from discoverd.stas.translation import Translation

SOURCE = "/etc/stas"
TARGET = exclusions.ROOT
# Where the host's own name and ID are, wherever the result goes to.
_HOST = Path(exclusions.ROOT)
_NAME = "50-nvme-stas.conf"
_FABRICS = f"{FABRICS_CONF.name}.d/{_NAME}"
_EXCLUSIONS = f"{exclusions.DROP_INS}/{_NAME}"
_SETTINGS = f"{SETTINGS_CONF.name}.d/{_NAME}"
_NEXT = ("discoverd --check", "systemctl disable --now stafd.service stacd.service", drop_ins.START)


def run(source: Path, target: Path, dry_run: bool, force: bool) -> Exit:
    """Translate the files in ``source`` and write ours below ``target``. Raises CliError, and OSError from writing."""
    stas = drop_ins.read_theirs(source, translation.NAMES, "import-stas")
    existing = [file for file in read_tree(target / FABRICS_CONF.name) if file.path != str(target / _FABRICS)]
    own = load_host_identity(_HOST)
    result = translation.translate(stas, own, _HOST, parse_fabrics(existing))
    contents = ((_FABRICS, result.fabrics), (_EXCLUSIONS, result.exclusions), (_SETTINGS, result.settings))
    targets = [drop_ins.drop_in(target / name, content) for name, content in contents]
    _check(target, targets, result, existing)
    if not dry_run:
        drop_ins.write(targets, force)
    drop_ins.show(targets, dry_run)
    carried = f"{text.count(result.controllers, 'controller')} and {text.count(result.entries, 'exclusion')}"
    status = drop_ins.report(result.findings, carried, "nvme-stas")
    drop_ins.say_next(dry_run, _NEXT)
    return status


def _check(target: Path, targets: list[DropIn], result: Translation, existing: list[SourceFile]) -> None:
    """Refuse to write what our own parsers find a fault in, alone or beside the files that are there."""
    fabrics, lists, settings = targets
    errors, warnings = drop_ins.faults(existing, [fabrics])
    faults = [str(one) for one in (*errors, *warnings)]
    faults += [str(one) for one in parse_settings([SourceFile(str(settings.path), settings.content.encode())])[1]]
    found = exclusions.parse([(exclusions.printable(str(lists.path)), lists.content.encode())])
    faults += [f"{file}:{line}: {sentence}" for file, line, sentence in found.problems]
    ours = [one for one in drop_ins.beside(existing, [fabrics]).connections if one.file == str(fabrics.path)]
    if not faults and (len(ours), len(found.entries)) != (result.controllers, result.entries):
        faults = ["not everything would be understood as it was meant"]
    drop_ins.refuse(faults, f"the files in {target}" if existing else "our own rules")
