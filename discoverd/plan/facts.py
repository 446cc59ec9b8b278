# SPDX-License-Identifier: Apache-2.0
"""What is known of controllers, and what is decided about them: the planner's input and output."""

import enum
from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from discoverd.config.settings import DisconnectScope
from discoverd.plan.candidate import Candidate, Target
from discoverd.plan.evidence import Pending, Wait


class Action(enum.Enum):
    """What to do about a unit."""

    START = "start"
    KEEP = "keep"
    # An administrator stopped it; it stays loaded, so that `systemctl start` works.
    KEEP_STOPPED = "keep stopped"
    LEAVE = "leave"


@dataclass(frozen=True, slots=True)
class UnitFact:
    """What systemd says about a unit: LoadState, ActiveState, and whether a job is queued for it."""

    load: str
    active: str
    job: bool = False

    @property
    def running(self) -> bool:
        """Tell whether there is, or is about to be, a worker."""
        return self.active in ("active", "activating", "reloading", "deactivating") or self.job


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker has reported last; see discoverd.state for the states.

    ``time`` is that of the report (seconds, CLOCK_BOOTTIME), ``attempt`` counts since the last connection. ``cause`` is
    why it is in that state: why the last attempt failed, the file and line that exclude it, who uses it. ``errno`` and
    ``answer`` (discoverd.state) are those of the last attempt, if that is the cause. ``kept`` is why it was not
    disconnected though nobody asks for it, and ``owner`` who else has it, '' for nobody. ``since`` is when the state
    began (as ``time``, 0 where that is not told), and ``detail`` what ``status`` says beside state and device.
    ``sysfs_inode`` tells ``device`` from another controller of that name (discoverd.kernel.controllers).
    ``attempts_made``, ``losses`` and ``reconnects`` count since the worker began. ``registered`` is yes or no for a
    discovery controller that was told who this host is, or could not be, and else ''.
    """

    state: str
    status: str = ""
    device: str = ""
    log_read: str = ""
    attempt: int = 0
    time: float = 0.0
    sysfs_inode: int = 0
    cause: str = ""
    kept: str = ""
    attempts_made: int = 0
    losses: int = 0
    reconnects: int = 0
    registered: str = ""
    errno: int = 0
    since: float = 0.0
    detail: str = ""
    answer: str = ""
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """A controller we have state for: what asked for it last, and which source that was (see Candidate).

    ``withdrawn`` is the note with which its worker was told that nobody asks for it any more, '' if it was not.
    ``referrers`` are the origins that listed it and whose present answer does not yet omit it, as far as they are
    written down; it is not disconnected before the answer of each of them does. ``target`` is where it is, and ``role``
    and ``trusted`` as in Candidate.
    """

    source: str
    origin: str
    withdrawn: str = ""
    referrers: frozenset[str] = frozenset()
    target: Target = ("", "", "", "")
    role: str = ""
    trusted: bool = True

    @property
    def all_referrers(self) -> frozenset[str]:
        """The referrers with the origin, which need not be written down among them."""
        return self.referrers | {self.origin}


@dataclass(frozen=True, slots=True)
class Answer:
    """The present answer of an origin: which one it is, such as ``generation 7``, and what it proves ``absent``.

    None stands for all that it does not ask for, as with the configuration, which is known whole. A log page proves as
    much as discoverd.plan.evidence says.
    """

    text: str = ""
    absent: frozenset[str] | None = None

    def lacks(self, instance: str) -> bool:
        """Tell whether it proves that it does not ask for this one."""
        return self.absent is None or instance in self.absent


@dataclass(frozen=True, slots=True)
class Policy:
    """What is disconnected that a log page no longer lists; see discoverd.config.settings.Settings."""

    scope: DisconnectScope = "ours"
    transports: tuple[str, ...] = ("tcp",)

    def disconnects(self, instance: str) -> str:
        """Return state.Spec's ``disconnect`` for a controller that was withdrawn."""
        if self.scope == "all":
            return "all" if instance.partition(":")[0] in self.transports else "ours"
        return "" if self.scope == "none" else "ours"


@dataclass(frozen=True, slots=True)
class HeldBack:
    """What of a log page is not acted on yet, in words, and what it waits for.

    ``until`` is the earliest time at which that can end (seconds, CLOCK_BOOTTIME), ``clock`` the same on the wall.
    """

    wait: Wait
    text: str
    until: float
    clock: str


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known. Keys are instances of units.

    ``wanted`` has the candidates that a unit stands for, the one to connect by first. ``authoritative`` has the origins
    whose present answer is fresh and whole, so that not being in it can mean something, and that answer.
    ``inconclusive`` says of others why theirs means nothing, and ``pending`` of single controllers why an answer proves
    nothing about them, by origin and instance. ``closed`` has the discovery controllers that, by these answers, nobody
    leads to any more, so that what they listed does not count (see :func:`closed`). ``held_back`` says of discovery
    controllers what of their page is not acted on yet, and ``confirming`` are those whose page has to be read every
    minute.

    ``fragments`` has the unit files beside which systemd makes no transient unit, by instance, '' for all but those
    that it has ``made`` before.

    ``trusted_subsystems`` has the NQNs of subsystems that somebody trusted asks for, as canonical_nqn() has them.

    ``excluded`` has the place in the exclusion files that excludes a controller. ``targets`` has all targets that
    anybody asks for, and ``trusted_targets`` those that somebody trusted asks for. ``unmanaged`` has
    what others connected and no unit of ours asks for, and for UNMANAGED ``authoritative`` has the answer that does not
    list them.
    """

    wanted: Mapping[str, tuple[Candidate, ...]] = field(default_factory=dict)
    units: Mapping[str, UnitFact] = field(default_factory=dict)
    reports: Mapping[str, Report] = field(default_factory=dict)
    known: Mapping[str, Known] = field(default_factory=dict)
    authoritative: Mapping[str, Answer] = field(default_factory=dict)
    inconclusive: Mapping[str, str] = field(default_factory=dict)
    excluded: Mapping[str, str] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)
    unmanaged: Mapping[str, Candidate] = field(default_factory=dict)
    targets: Container[Target] = ()
    trusted_targets: Container[Target] = ()
    pending: Mapping[str, Mapping[str, Pending]] = field(default_factory=dict)
    closed: Container[str] = ()
    held_back: Mapping[str, HeldBack] = field(default_factory=dict)
    confirming: Container[str] = ()
    trusted_subsystems: Container[str] = ()
    fragments: Mapping[str, str] = field(default_factory=dict)
    made: Container[str] = ()

    def fragment(self, instance: str) -> str:
        """Return the unit file that keeps a unit from being made, '' for none."""
        return "" if instance in self.made else self.fragments.get(instance) or self.fragments.get("", "")


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do about one controller. ``reason`` completes "because it is …".

    ``note`` goes into the unit's status, and has a worker without a connection end instead of connecting.
    ``disconnect`` and ``confirm`` as in state.Spec, ``referrers`` as in Known. ``held_back`` as in Facts, in words for
    the status. ``excluded_by`` is the file and line that exclude it, ``blocked_by`` the unit file beside which systemd
    does not make its unit, and ``withdrawn_by`` the origin whose present answer does not list it any more.
    """

    instance: str
    action: Action
    reason: str
    candidate: Candidate | None = None
    note: str = ""
    disconnect: str = ""
    referrers: frozenset[str] = frozenset()
    held_back: str = ""
    confirm: bool = False
    excluded_by: str = ""
    withdrawn_by: str = ""
    blocked_by: str = ""
