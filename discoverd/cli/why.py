# SPDX-License-Identifier: Apache-2.0
"""``discoverctl why``: in whole sentences who asks for a controller, what was decided, and what would change it."""

import errno
from collections.abc import Container, Sequence
from dataclasses import replace

from discoverd import state
from discoverd.cli import advice, kernel_log, text
from discoverd.cli.choose import choose
from discoverd.cli.exits import CliError, Exit
from discoverd.cli.kernel_log import ATTEMPT_SECONDS, Line
from discoverd.cli.overview import Controller, Overview
from discoverd.cli.plan_file import Planned
from discoverd.plan.facts import Report
from discoverd.plan.former_owner import TOOLS

_DECISIONS = {
    "start": "discoverd wants it connected, because it is {}.",
    "keep": "discoverd keeps it, because it is {}.",
    "keep stopped": "discoverd does not start it: it is {}.",
    "leave": "discoverd leaves it as it is: it is {}.",
}
# What a socket says whose target has not answered.
_SILENT = (errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH)
_ANNOUNCED = (
    "Only an announcement leads to it, which whoever is on the link can make: it gets no key of this host. To have it "
    "trusted, configure it, or its discovery controller, in /etc/nvme/nvme-fabrics.conf."
)


def explain(words: Sequence[str], overview: Overview, json: bool) -> Exit:
    """Print the explanation of each controller that the words mean, and of each that is refused.

    Raises CliError if a word means none, and, once all is printed, if every one of them is refused.
    """
    # What cannot be connected is no controller, and yet it has names.
    refused, why_refused = _refused(overview)
    chosen = choose(words, replace(overview, controllers=(*overview.controllers, *refused)))
    lines = _kernel_log() if any(_fails(one) for one in chosen) else []
    devices = {one.device.name for one in overview.controllers if one.device}
    explained = []
    for one in chosen:
        alone = not any(_fails(other) and other != one and _at_once(one, other) for other in overview.controllers)
        why = [] if one in refused else sentences(one, lines, devices, alone)
        explained.append((one.name, [*why, *why_refused.get(one.name, ())]))
    if json:
        text.document({"version": 1, "controllers": [{"controller": one, "why": why} for one, why in explained]})
    else:
        for number, (name, why) in enumerate(explained):
            if number:
                text.line()
            text.line(name)
            for sentence in why:
                text.line("  " + sentence)
    if overview.plan.fault:
        text.remark(overview.plan.fault)
    if all(one in refused for one in chosen):
        raise CliError(
            f"{' and '.join(words)} is not connected; mend what refuses it, then: systemctl reload discoverd",
            Exit.UNKNOWN,
        )
    return Exit.OK


def _refused(overview: Overview) -> tuple[list[Controller], dict[str, list[str]]]:
    """Return what is refused and no controller, as controllers that can be chosen by their names; and by name why."""
    found: dict[str, Controller] = {}
    why: dict[str, list[str]] = {}
    known = {one.name for one in overview.controllers}
    for one in overview.plan.refusals:
        parts = (one.transport, one.traddr, one.trsvcid, one.subsysnqn)
        # Where nothing tells the target, or it was an earlier discoverd that did not, there are only words.
        name = ":".join(part for part in parts if part) or one.what
        # The name of a host, where an address belongs, is a name like any other.
        address = dict(zip(("transport", "traddr", "trsvcid", "subsysnqn"), parts, strict=True))
        if name not in known:
            found[name] = Controller(name, planned=Planned(name, "refuse", one.reason, **address))
        # Each log page that lists it, and each section, is refused by itself.
        why.setdefault(name, []).append(f"It cannot be connected: {one.what} ({one.source}): {one.reason}.")
    return list(found.values()), why


def _kernel_log() -> list[Line]:
    try:
        return kernel_log.read()
    except OSError:
        return []  # It is not there in a container, and not for everybody.


def _fails(controller: Controller) -> bool:
    """Tell whether there should be a connection, and is none."""
    report = controller.report
    failed = report is not None and report.state in (state.WAITING, state.CONNECTING, state.GIVEN_UP)
    return failed or controller.state == state.RECONNECTING


def _at_once(one: Controller, other: Controller) -> bool:
    """Tell whether the last attempts of two controllers came so close that the kernel's log may mix them up."""
    if one.report is None or other.report is None:
        return False
    return abs(one.report.time - other.report.time) <= ATTEMPT_SECONDS + 1


def sentences(controller: Controller, lines: list[Line], devices: Container[str], alone: bool) -> list[str]:
    """Return the sentences about one controller, what would change things last.

    ``lines`` are the kernel's log, ``devices`` all that the kernel has; ``alone``: no other attempt was made in the
    seconds of this one's last.
    """
    failure = _failure(controller, lines, devices, alone)
    return [*_wish(controller), *_reality(controller), *failure, *_change(controller)]


def _wish(controller: Controller) -> list[str]:
    planned, spec = controller.planned, controller.spec
    if planned and controller.blocked and planned.action == "keep stopped":
        # Decided before the file was there, or by an earlier version.
        return [f"It is {planned.sources or 'asked for'}."]
    if planned and controller.excluded and planned.action == "keep":
        return [f"It is {planned.reason}. It stays connected, and is not connected again once it is lost."]
    if planned:
        return [
            _DECISIONS.get(planned.action, planned.action + ": it is {}.").format(planned.reason),
            *([_ANNOUNCED] if planned.trust == "announced" else []),
        ]
    if spec and spec.source:
        return [f"It was {spec.source} when discoverd decided last."]
    return ["No source that discoverd has asks for it."]


def _reality(controller: Controller) -> list[str]:
    unit, device, report = controller.unit, controller.device, controller.report
    found = []
    if unit is None:
        found.append("It has no unit.")
    elif unit.load == "masked":
        found.append("Its unit is masked.")
    else:
        found.append(f"Its unit is {unit.active}.")
        if unit.status:
            found.append(f"Its worker {'says' if unit.running else 'said last'}: {unit.status}.")
        elif report and report.status:
            found.append(f"Its worker reported last: {report.status}.")
    if controller.fragment and unit and unit.running:
        found.append(f"It was made before this: {controller.fragment.problem}.")
    if device is None:
        found.append("The kernel does not have it.")
    else:
        found.append(f"The kernel has it as {device.name}, {device.kernel.state}; {_owner(controller)}.")
    if controller.planned and controller.planned.held_back:
        found.append(f"Of what it lists, {controller.planned.held_back}.")
    return found


def _failure(controller: Controller, lines: list[Line], devices: Container[str], alone: bool) -> list[str]:
    """Return why there is no connection, in the target's and the kernel's words, and what would help."""
    report = controller.report
    if report is None or not _fails(controller):
        return []
    quoted = _quoted(controller, report, lines, devices, alone)
    number, answered = report.errno, report.answer
    if controller.state == state.RECONNECTING:
        # The kernel is at it, and nobody hears what comes of its attempts.
        number = kernel_log.socket_error(quoted)
        answered = state.SILENT if number in _SILENT else state.ANSWERED if number == errno.ECONNREFUSED else ""
    found = [f"The kernel says: {line}" for line in quoted]
    if said := advice.answer(controller, number, answered):
        found.append(said)
    if helps := advice.help_for(controller, number):
        found.append(f"What would help: {helps}.")
    return found


def _quoted(
    controller: Controller, report: Report, lines: list[Line], devices: Container[str], alone: bool
) -> list[str]:
    """Return the lines of the kernel's log about a controller, none that may be about another."""
    if controller.device:
        return kernel_log.about_device(lines, controller.device.name)
    if controller.subsysnqn and (found := kernel_log.about_subsystem(lines, controller.subsysnqn, report.since)):
        return found
    return kernel_log.in_attempt(lines, report.time, devices) if alone and report.errno else []


def _owner(controller: Controller) -> str:
    owner = controller.device.owner if controller.device else ""
    return f"its owner in the registry is {owner}" if owner else "the registry names no owner"


def _change(controller: Controller) -> list[str]:
    unit, device, planned = controller.unit, controller.device, controller.planned
    name = text.quoted(controller.name)
    if (unit and unit.load == "masked") or (planned and "unit is masked" in planned.reason):
        return [f"To have it: systemctl unmask {text.quoted(controller.unit_name)}; then: discoverctl start {name}"]
    if controller.blocked and controller.fragment:
        return [f"{controller.fragment.problem}."]
    if device and device.foreign:
        return [
            f"As long as {device.owner} owns it, it is left alone. To have discoverd look after it, disconnect it with "
            "the tool that connected it.",
            *(["Whether that tool still runs: discoverctl doctor"] if device.owner in TOOLS else []),
        ]
    if controller.report and controller.report.state == state.FOREIGN and unit and unit.running:
        return ["It is left alone until that one lets it go, and then connected, so nothing needs to be done here."]
    if not controller.known:
        return [
            "To have discoverd look after it, configure it in /etc/nvme/nvme-fabrics.conf, then: systemctl reload "
            f"discoverd. To disconnect it: discoverctl disconnect {device.name if device else name}"
        ]
    if controller.excluded:
        return _change_excluded(controller)
    now = controller.state
    if now == state.REFUSED:
        return [
            f"To have it looked after again: discoverctl start {name}",
            f"To disconnect it, end its use, then: discoverctl disconnect {name}",
        ]
    if controller.waits_for:
        return [f"To disconnect it now, with all that waits for the same: {_confirm(controller.waits_for)}"]
    if planned and planned.held_back:
        return [f"To confirm what its log page says now: {_confirm(controller.name)}"]
    if planned and planned.action == "keep stopped":
        return [f"To have it back: discoverctl start {name}"]
    if now == "failed":
        return [f"To see why it failed: journalctl -u {text.quoted(controller.unit_name)}"]
    if planned and planned.note:
        return [f"It stays as it is. To disconnect it: discoverctl disconnect {name}"]
    if controller.live:
        return [
            f"To disconnect it, and keep it so until it is started again or the host boots: discoverctl stop {name}"
        ]
    if now == state.PARKED:
        return [
            "It is read again by itself, so nothing needs to be done here. To read it now: systemctl reload "
            "discoverd. To have it held: persistent = force, in its section of /etc/nvme/nvme-fabrics.conf"
        ]
    if unit and unit.running:
        return ["It is tried again and again by itself, so nothing needs to be done here once its target answers."]
    return ["To see what discoverd does: discoverctl status"]


def _confirm(instance: str) -> str:
    return f"discoverctl confirm {text.quoted(instance)}"


def _change_excluded(controller: Controller) -> list[str]:
    name = text.quoted(controller.name)
    sentences = [f"To have it connected again: discoverctl unexclude {name}"]
    if controller.device:
        sentences.append(f"To disconnect it: discoverctl disconnect {name}")
    return sentences
