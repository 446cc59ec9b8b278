# SPDX-License-Identifier: Apache-2.0
"""The exclusion lists: lines that exclude nothing, and files that other tools do not read."""

from discoverd import exclusions
from discoverd.cli.checks.finding import Finding, hint, problem


def check() -> list[Finding]:
    """Return what is wrong with the lists. An exclusion that is none lets something be connected."""
    lists = exclusions.load(exclusions.ROOT)
    found = [
        problem(
            f"{file}:{line}: {sentence}" if line else f"{file}: {sentence}",
            "mend that; lists are read again as soon as they are saved",
        )
        for file, line, sentence in lists.problems
    ]
    draft = f"{exclusions.ROOT}/{exclusions.DRAFT}/"
    found += [
        hint(
            f"{file} is of an earlier form of the lists, which nvme-cli and nvme-stas do not read",
            f"have them read it too: mv {file} {exclusions.ROOT}/{exclusions.DROP_INS}/NAME.conf",
        )
        for file in dict.fromkeys(entry.file for entry in lists.entries)
        if file.startswith(draft)
    ]
    return found
