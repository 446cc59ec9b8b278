# SPDX-License-Identifier: Apache-2.0
"""How the fabric goes wrong on order: rules for single steps of a conversation, distortions of whole log pages."""

from dataclasses import dataclass

# In the order in which a host meets them. A rule for "log" covers all that begin with "log-", and "*" every step.
STEPS = (
    "accept",
    "icreq",
    "connect",
    "property-get",
    "property-set",
    "identify",
    "features-set",
    "features-get",
    "async-event",
    "keep-alive",
    "log-supported",
    "log-header",
    "log-entries",
    "log-other",
    "dim",
    "abort",
    "other",
)
ACTIONS = {
    "drop": "resets the connection instead of an answer",
    "cut": "sends half of the answer, then resets the connection",
    "ignore": "never answers",
    "delay": "answers `value` seconds late",
    "status": "fails the command with the status `value`",
    "garbage": "sends other bytes of the same number",
    "short": "sends half of the data, and says that all is well",
    "digest": "gets a digest wrong (the header's, where there is none of data); nothing without digests",
    "length": "gives the PDU the length `value`",
    "type": "gives the PDU the type `value`",
    "generation": "moves the log page to its next generation before the answer",
}


@dataclass
class Rule:
    """`action` at `step`: not the first `after` times, then `times` times (None: always), for whom it names."""

    step: str
    action: str
    value: float = 0
    times: int | None = None
    after: int = 0
    instance: str | None = None
    host: str | None = None

    def __post_init__(self) -> None:
        if self.step != "*" and not any(_covers(self.step, step) for step in STEPS):
            raise ValueError(f"no step {self.step!r}; there are {', '.join(STEPS)}")
        if self.action not in ACTIONS:
            raise ValueError(f"no action {self.action!r}; there are {', '.join(ACTIONS)}")

    def matches(self, step: str, instance: str, host: str) -> bool:
        return (
            (self.step == "*" or _covers(self.step, step))
            and self.instance in (None, instance)
            and self.host in (None, host)
        )


def _covers(pattern: str, step: str) -> bool:
    return step == pattern or step.startswith(pattern + "-")


class Behaviour:
    """The rules in force."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []

    def take(self, step: str, instance: str, host: str) -> Rule | None:
        """The first rule that applies now; each that matches is counted."""
        taken = None
        for rule in tuple(self.rules):
            if not rule.matches(step, instance, host):
                continue
            if rule.after:
                rule.after -= 1
            elif taken is None:
                taken = rule
                if rule.times is not None:
                    rule.times -= 1
                    if not rule.times:
                        self.rules.remove(rule)
        return taken


@dataclass(frozen=True)
class Distortion:
    """What is wrong with every log page of an instance.

    ``numrec`` is claimed instead of the number of entries; ``form`` is the record format; ``pad`` fills text fields
    with blanks instead of zeros; ``duplicates`` lists each entry so many times more; ``keep`` leaves this share of the
    entries, from the first, as if they were all; ``half`` claims all entries and has bytes for that half; ``garbage``
    is the seed of random bytes in place of all entries; ``raw``, in hexadecimal, stands in place of all entries.
    """

    numrec: int | None = None
    form: int = 0
    pad: bool = False
    duplicates: int = 0
    keep: float = 1
    half: bool = False
    garbage: int | None = None
    raw: str | None = None
