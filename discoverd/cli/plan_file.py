# SPDX-License-Identifier: Apache-2.0
"""The plan that the supervisor leaves in /run/discoverd/plan: what it decided about each controller, and why."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from discoverd import state
from discoverd.config.errors import printable

PATH = state.ROOT + "/plan"
VERSION = 1
LIMIT = 1 << 26
MISSING = "discoverd has left no plan; if it does not run: systemctl start discoverd"


@dataclass(frozen=True, slots=True)
class Planned:
    """A decision: ``action`` is start, keep, keep stopped or leave, and ``reason`` completes "because it is …".

    ``excluded_by`` is the file and line that exclude it, ``withdrawn_by`` the origin that does not list it any more,
    ``blocked_by`` the unit file beside which systemd does not make its unit.
    ``trust`` is trusted or announced (discoverd.plan.candidate). ``held_back`` says of a discovery controller what of
    its log page is not acted on yet, '' if all of it is. What identifies the controller is '' for one that no source
    asks for any more.
    """

    instance: str
    action: str
    reason: str
    note: str = ""
    held_back: str = ""
    excluded_by: str = ""
    withdrawn_by: str = ""
    blocked_by: str = ""
    trust: str = ""
    transport: str = ""
    traddr: str = ""
    trsvcid: str = ""
    subsysnqn: str = ""
    host_iface: str = ""
    host_traddr: str = ""
    role: str = ""
    sources: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """Something that a source asks for and that cannot be connected.

    ``expected`` is '' unless nothing is wrong with that, and ``trust`` where only an announcement leads to it. Where it
    would be is '' as far as that cannot be told.
    """

    what: str
    source: str
    reason: str
    expected: str = ""
    transport: str = ""
    traddr: str = ""
    trsvcid: str = ""
    subsysnqn: str = ""
    trust: str = ""


@dataclass(frozen=True, slots=True)
class Earlier:
    """A configuration file that counts as it was on a day, ``since``, because of a mistake in it since then."""

    file: str
    since: str
    mistake: str


@dataclass(frozen=True, slots=True)
class PlanFile:
    """The plan; ``fault`` says why there is none to be had, and what to do, '' if there is one.

    ``pending`` has by discovery controller what its log page does not list, and what stays until that is confirmed.
    ``errors`` counts those of the configuration among the complaints, which have discoverd keep the one from before.
    ``kept`` are the configuration files that count as they were before.
    """

    controllers: Mapping[str, Planned] = field(default_factory=dict)
    refusals: tuple[Refused, ...] = ()
    complaints: tuple[str, ...] = ()
    pending: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    kept: tuple[Earlier, ...] = ()
    fault: str = ""
    errors: int = 0


def read() -> PlanFile:
    """Return the plan, or one with a ``fault`` where it is missing, damaged or of another version.

    All texts in it are printable.
    """
    try:
        data = state.read(PATH, LIMIT)
    except state.StateError as error:
        if not os.path.exists(PATH):
            return PlanFile(fault=MISSING)
        return PlanFile(fault=f"the plan cannot be read ({error}); see: systemctl status discoverd")
    return parse(data)


def parse(data: bytes) -> PlanFile:
    """Return the plan that a file has in it, as :func:`read`."""
    try:
        return _understand(json.loads(data))
    except (ValueError, KeyError, TypeError, RecursionError):
        return PlanFile(
            fault=f"{PATH} is truncated or makes no sense; to have it written again: systemctl restart discoverd"
        )


def _understand(plan: Any) -> PlanFile:
    """Return the plan that the JSON is. Raises ValueError, KeyError or TypeError for one that is none."""
    version = plan["version"]
    if type(version) is not int:
        raise TypeError("the version is no number")
    if version != VERSION:
        fault = f"{PATH} is of version {version}, and this discoverctl understands {VERSION}"
        return PlanFile(fault=f"{fault}; install both from one release, then: systemctl restart discoverd")
    planned = [_take(Planned, entry) for entry in plan["controllers"]]
    for entry, raw in zip(planned, plan["controllers"], strict=True):
        if entry.instance != raw["instance"] or not state.valid_instance(entry.instance):
            raise ValueError("an instance that is none")
    refusals = [_take(Refused, entry) for entry in plan["refusals"]]
    complaints = [_text(one) for one in plan["complaints"]]
    pending = {_instance(one["origin"]): tuple(map(_instance, one["instances"])) for one in plan.get("pending", ())}
    kept = [_take(Earlier, entry) for entry in plan.get("kept", ())]
    errors = plan.get("errors", 0)
    if type(errors) is not int:
        raise TypeError("the number of errors is no number")
    by_instance = {entry.instance: entry for entry in planned}
    return PlanFile(by_instance, tuple(refusals), tuple(complaints), pending, tuple(kept), errors=errors)


def _instance(value: Any) -> str:
    if not isinstance(value, str) or not state.valid_instance(value):
        raise ValueError("an instance that is none")
    return value


def _take(kind: Any, entry: Any) -> Any:
    """Return the dataclass with the fields that it knows; those of a later release beside them are left out."""
    known = {one.name: _text(entry[one.name]) for one in fields(kind) if one.name in entry}
    return kind(**known)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text where one belongs")
    # The name of a configuration file, in a reason, may hold anything.
    return printable(value)
