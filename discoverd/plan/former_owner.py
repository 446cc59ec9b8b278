# SPDX-License-Identifier: Apache-2.0
"""Whether the tool that owns a controller still looks after it, and whether it may be taken back. Pure.

The registry keeps an owner until the controller goes, also if the daemon of that name was only tried, or was removed.
docs/design/architecture.md has the rule, and why it asks for so much.
"""

import enum
import fnmatch
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from discoverd.plan.facts import UnitFact

# A daemon that is exchanged, or started again by hand, is away for less.
GONE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool with daemons: its ``services``, and a pattern for units of its own, '' where it has none.

    Each of these holds one controller, and disconnects it when it is stopped, a shutdown included, whether a daemon
    runs or not.
    """

    name: str
    services: tuple[str, ...]
    holders: str = ""


# By what they enter as the owner.
TOOLS: Mapping[str, Tool] = {
    "discoverd": Tool("nvme-cli's nvme-discoverd", ("nvme-discoverd.service",), "nvme-discoverd-*.service"),
    "stas": Tool("nvme-stas", ("stafd.service", "stacd.service")),
}


class Standing(enum.Enum):
    """What is known of an owner: a daemon of it RUNS; none does, but a unit of its own HOLDS the controller; it is
    GONE; or nothing is known, and so it counts as one that runs. UNSEEN is one that nothing is known of because systemd
    has none of its services: its daemon may run where that does not see it, in a container for instance."""

    RUNS = "runs"
    HOLDS = "holds"
    GONE = "gone"
    UNKNOWN = "unknown"
    UNSEEN = "unseen"


@dataclass(frozen=True, slots=True)
class Judgement:
    """The standing of an owner, and the units of its own that hold the controller, or may."""

    standing: Standing
    holders: tuple[str, ...] = ()


def services(owners: Iterable[str]) -> list[str]:
    """Return the services that tell about these owners."""
    return sorted({name for owner in owners if owner in TOOLS for name in TOOLS[owner].services})


def patterns(owners: Iterable[str]) -> list[str]:
    """Return the patterns of units that tell about these owners."""
    return sorted({TOOLS[owner].holders for owner in owners if owner in TOOLS and TOOLS[owner].holders})


def present(units: Mapping[str, UnitFact]) -> set[str]:
    """Return the units that systemd has."""
    return {name for name, unit in units.items() if unit.load != "not-found"}


def judge(owner: str, units: Mapping[str, UnitFact], holder: str = "", before: Container[str] = ()) -> Judgement:
    """Judge an owner by what systemd says: ``units`` has its services, and all that its pattern fits.

    ``holder`` is the unit that holds the controller by the tool's own record, '' where there is none: then each of its
    units may. ``before`` has the services that systemd had at an earlier look.
    """
    tool = TOOLS.get(owner)
    if tool is None or any(name not in units for name in tool.services):
        return Judgement(Standing.UNKNOWN)
    if any(units[name].running for name in tool.services):
        return Judgement(Standing.RUNS)
    of_its_own = [name for name in units if tool.holders and fnmatch.fnmatchcase(name, tool.holders)]
    if fnmatch.fnmatchcase(holder, tool.holders):
        # The others hold other controllers, and one that is not loaded any more holds none.
        of_its_own = [name for name in of_its_own if name == holder]
    holders = tuple(sorted(name for name in of_its_own if units[name].running))
    if holders:
        return Judgement(Standing.HOLDS, holders)
    seen = present(units)
    here = any(name in seen or name in before for name in tool.services) or any(name in seen for name in of_its_own)
    return Judgement(Standing.GONE if here else Standing.UNSEEN)
