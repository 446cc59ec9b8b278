# SPDX-License-Identifier: Apache-2.0
"""``discoverctl import-nvme-cli``: nvme-cli 2's files as ours, with a word on each thing that does not fit."""

import re
from collections.abc import Sequence
from pathlib import Path

from discoverd import exclusions
from discoverd.cli import drop_ins, text
from discoverd.cli.drop_ins import DropIn
from discoverd.cli.exits import Exit
from discoverd.config.errors import Diagnostic
from discoverd.config.fabrics import FABRICS_CONF, parse_fabrics
from discoverd.config.identity import load_host_identity
from discoverd.config.sources import SourceFile, read_tree
from discoverd.nvme_cli import files, translation

SOURCE = exclusions.ROOT
TARGET = exclusions.ROOT
# Where the host's own name and ID are, wherever the result goes to.
_HOST = Path(exclusions.ROOT)
_FOLDER = f"{FABRICS_CONF.name}.d"
# The first file, and further ones, counted from 2.
_FIRST, _FURTHER = "50-nvme-cli.conf", "50-nvme-cli-{}.conf"
_NEXT = ("discoverd --check", drop_ins.START, "discoverctl doctor")
_OURS = re.compile(r"50-nvme-cli(-[0-9]+)?\.conf")


def run(source: Path, target: Path, dry_run: bool, force: bool) -> Exit:
    """Translate the files in ``source`` and write ours below ``target``. Raises CliError, and OSError from writing."""
    theirs = drop_ins.read_theirs(source, files.NAMES, "import-nvme-cli")
    folder = target / _FOLDER
    tree = read_tree(target / FABRICS_CONF.name)
    earlier = {file.path for file in tree if file.drop_in and _OURS.fullmatch(Path(file.path).name)}
    existing = [file for file in tree if file.path not in earlier]
    result = translation.translate(theirs, load_host_identity(_HOST), parse_fabrics(existing))
    contents = {str(folder / _name(number)): content for number, content in enumerate(result.contents, 1)}
    # What an earlier import wrote and this one does not is to go.
    paths = sorted(contents.keys() | earlier)
    targets = [drop_ins.drop_in(Path(path), contents.get(path, "")) for path in paths]
    warnings = _check(target, targets, result.controllers, existing)
    if not dry_run:
        drop_ins.write(targets, force)
    drop_ins.show(targets, dry_run)
    for warning in warnings:
        text.line(f"warning: {warning}")
    status = drop_ins.report(result.findings, text.count(result.controllers, "controller"), "nvme-cli")
    drop_ins.say_next(dry_run, _NEXT if result.controllers else ())
    if result.controllers and not dry_run:
        text.line("nvme-cli's own units stand back while discoverd runs, and its files stay as they are.")
    return status


def _name(number: int) -> str:
    return _FIRST if number == 1 else _FURTHER.format(number)


def _check(target: Path, targets: list[DropIn], controllers: int, existing: Sequence[SourceFile]) -> list[Diagnostic]:
    """Refuse to write what our own parser finds a fault in; return what it remarks upon."""
    errors, warnings = drop_ins.faults(existing, targets)
    faults = [str(one) for one in errors]
    paths = {str(one.path) for one in targets}
    ours = [one for one in drop_ins.beside(existing, targets).connections if one.file in paths]
    faults += [f"{one.file}:{one.line}: {one.problem}" for one in ours if one.problem]
    if not faults and len(ours) != controllers:
        faults = ["not everything would be understood as it was meant"]
    drop_ins.refuse(faults, f"the files in {target}" if existing else "our own rules")
    return warnings
