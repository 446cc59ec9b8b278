# SPDX-License-Identifier: Apache-2.0
"""Drop-ins that an import writes below /etc/nvme: judged first, written without a loss, and shown."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from discoverd.cli import files, text
from discoverd.cli.exits import CliError, Exit
from discoverd.config import keys
from discoverd.config.errors import Diagnostic
from discoverd.config.fabrics import parse_fabrics
from discoverd.config.finding import Finding, Kind
from discoverd.config.model import FabricsConfig
from discoverd.config.sources import SourceFile, read_file

# The command that has them count.
START = "systemctl enable --now discoverd.service    (or, where it runs: systemctl reload discoverd.service)"
_TEMPORARY = ".discoverctl-import."
_SECRETS = "|".join(key.name for key in keys.SECURITY if key.secret)
_SECRET_LINE = re.compile(rf"^({_SECRETS}) = .*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class DropIn:
    """A file to write; with an empty content there should be none. ``before`` is the one that is there."""

    path: Path
    content: str = field(repr=False)
    mode: int
    before: SourceFile | None

    @property
    def changes(self) -> bool:
        """Tell whether the file that is there says something else, or cannot be read."""
        return (self.before.data if self.before else b"") != self.content.encode() or bool(
            self.before and self.before.fault
        )

    @property
    def source(self) -> SourceFile:
        """The file as it would be read."""
        return SourceFile(str(self.path), self.content.encode(), self.mode, drop_in=True)


def drop_in(path: Path, content: str) -> DropIn:
    """Return the drop-in with this content, for root only where that has a secret in it."""
    return DropIn(path, content, 0o600 if _SECRET_LINE.search(content) else 0o644, read_file(path))


def beside(existing: Sequence[SourceFile], drop_ins: Iterable[DropIn]) -> FabricsConfig:
    """Return the fabrics configuration as it would be, the main file first and drop-ins by their names."""
    new = [one.source for one in drop_ins if one.content]
    main = [file for file in existing if not file.drop_in]
    others = [file for file in existing if file.drop_in]
    return parse_fabrics([*main, *sorted([*others, *new], key=lambda file: os.fsencode(file.path))])


def faults(existing: Sequence[SourceFile], drop_ins: Sequence[DropIn]) -> tuple[list[Diagnostic], list[Diagnostic]]:
    """Return the errors that there would be and are not there now, and the warnings about the drop-ins."""
    before = {(one.path, one.line, one.message) for one in parse_fabrics(existing).diagnostics}
    paths = {str(one.path) for one in drop_ins}
    errors, warnings = [], []
    for one in beside(existing, drop_ins).diagnostics:
        if one.severity == "warning" and one.path in paths:
            warnings.append(one)
        elif one.severity == "error" and (one.path, one.line, one.message) not in before:
            errors.append(one)
    return errors, warnings


def refuse(problems: Sequence[str], where: str) -> None:
    """Raise CliError where there are problems: nothing is written that our own parsers find a fault in."""
    if problems:
        raise CliError(
            f"nothing was written, because this does not go with {where}: {'; '.join(problems[:5])}; mend that, and "
            "import again"
        )


def write(drop_ins: Sequence[DropIn], force: bool) -> None:
    """Write what has changed. Raises CliError where that would replace a file, and OSError.

    With ``force`` it is replaced, and kept as ``.bak``.
    """
    changed = [one for one in drop_ins if one.changes]
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
    """Have the file stay as ``.bak``, in place of an earlier one, when it is replaced."""
    backup = path.with_name(path.name + ".bak")
    backup.unlink(missing_ok=True)
    os.link(path, backup)


def show(drop_ins: Sequence[DropIn], dry_run: bool) -> None:
    """Print what became of the files, or with ``dry_run`` what they would be, without secrets."""
    for one in drop_ins:
        if dry_run and one.content:
            text.line(f"{one.path} (mode {one.mode:04o}) would be:")
            for line in _SECRET_LINE.sub(r"\1 = <secret>", one.content).split("\n"):
                text.line(f"    {line}".rstrip())
            text.line()
        elif one.content:
            text.line(f"{one.path}: {'written' if one.changes else 'as it was'}")
        elif one.before and not dry_run:
            text.line(f"{one.path}: removed")


def report(findings: Sequence[Finding], carried: str, tool: str) -> Exit:
    """Print the findings, and how many of which kind there are, after what was ``carried`` over.

    Returns FAILED if something was not carried over that the tool acts on.
    """
    for finding in findings:
        text.line(str(finding))
    kinds = Counter(one.kind for one in findings)
    text.line(
        f"{carried} carried over; {kinds[Kind.LOST]} not carried over, {kinds[Kind.DIFFERS]} with a difference, "
        f"{kinds[Kind.IGNORED]} that {tool} ignores"
    )
    return Exit.FAILED if kinds[Kind.LOST] else Exit.OK


def say_next(dry_run: bool, commands: Sequence[str]) -> None:
    """Print what to type next, after an import or in place of one that was only shown."""
    if dry_run:
        text.line("Nothing was written. To write it, leave out --dry-run.")
    elif commands:
        text.line("Next, once the report is to your liking; what is connected stays connected:")
        for command in commands:
            text.line(f"    {command}")


def read_theirs(source: Path, names: Sequence[str], verb: str) -> dict[str, SourceFile]:
    """Return the other tool's files in a directory, those that are there, by name.

    Raises CliError if there is none of them, or one cannot be read.
    """
    found = {name: file for name in names if (file := _read(source / name))}
    if not found:
        raise CliError(f"{source} has none of {', '.join(names)}; say where they are: discoverctl {verb} --from DIR")
    return found


def _read(path: Path) -> SourceFile | None:
    file = read_file(path)
    if file and file.fault:
        denied = os.geteuid() and file.denied
        hint = "run it as root" if denied else "mend that and try again"
        raise CliError(f"{file.path} {file.fault}; {hint}", Exit.NOT_PERMITTED if denied else Exit.FAILED)
    return file
