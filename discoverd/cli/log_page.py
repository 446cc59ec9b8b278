# SPDX-License-Identifier: Apache-2.0
"""``discoverctl log-page``: what a discovery controller lists, and what became of each entry."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from discoverd import store
from discoverd.cli import text
from discoverd.cli.exits import CliError, Exit
from discoverd.cli.overview import Controller, Overview
from discoverd.kernel.admin import TRTYPES
from discoverd.plan.candidate import Target, target_of
from discoverd.plan.log_page import NVM, REFERRAL, SELF, Entry, LogPageError, PageRead
from discoverd.tid import DISCOVERY, IO, TidError, TransportId

_KINDS = {NVM: "subsystem", REFERRAL: "referral", SELF: "itself"}


@dataclass(frozen=True, slots=True)
class _Row:
    """An entry, and what became of it: ``result`` is one word or two, ``detail`` says why or where.

    ``controllers`` are all that lead to what it lists, through several interfaces perhaps, and ``result`` is that of
    the best of them.
    """

    entry: Entry
    kind: str
    transport: str
    result: str
    detail: str
    controllers: tuple[str, ...] = ()


def show(chosen: list[Controller], overview: Overview, json: bool) -> Exit:
    """Print the log page of each of these discovery controllers. Raises CliError for one of which none was read."""
    pages = [(one, _page(one)) for one in chosen]
    if json:
        text.document({"version": 1, "log_pages": [_document(one, page, overview) for one, page in pages]})
        return Exit.OK
    for number, (one, read) in enumerate(pages):
        if number:
            text.line()
        page = read.page
        text.line(f"{one.name}: generation {page.generation}, {_count(page.records)}, read {_age(read):.0f} s ago")
        rows = _rows(one, read, overview)
        if rows:
            cells = [
                (r.kind, r.transport, r.entry.traddr, r.entry.trsvcid, r.entry.subnqn, r.result, r.detail) for r in rows
            ]
            text.table(("KIND", "TRANSPORT", "ADDRESS", "SERVICE", "NQN", "RESULT", "DETAIL"), cells)
        for place, reason in page.refused:
            text.line(f"entry {place}: refused: {reason}")
        if page.beyond:
            text.line(f"{page.beyond} more entries are not looked at")
    return Exit.OK


def _count(number: int) -> str:
    return "1 entry" if number == 1 else f"{number} entries"


def _page(controller: Controller) -> PageRead:
    try:
        read = store.read_log(controller.name)
    except LogPageError as error:
        raise CliError(
            f"the log page of {controller.name} makes no sense: {error}; see: journalctl -u discoverd"
        ) from None
    if read is not None:
        return read
    if controller.subsysnqn and not controller.is_discovery:
        raise CliError(f"{controller.name} is no discovery controller, and has no log page", Exit.USAGE)
    raise CliError(
        f"no log page of {controller.name} was read yet; see why: discoverctl why {text.quoted(controller.name)}"
    )


def _age(read: PageRead) -> float:
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - read.time)


def _rows(controller: Controller, read: PageRead, overview: Overview) -> list[_Row]:
    known: dict[Target, list[Controller]] = {}
    for one in overview.controllers:
        if target := _target_of(one):
            known.setdefault(target, []).append(one)
    refused = {
        one.what: one.reason for one in overview.plan.refusals if one.source.endswith(f"log page of {controller.name}")
    }
    return [_row(entry, known, refused) for entry in read.page.entries]


def _target_of(controller: Controller) -> Target | None:
    planned, device = controller.planned, controller.device
    if planned and planned.traddr:
        role = planned.role or IO
        return target_of(role, planned.transport, planned.traddr, planned.trsvcid, planned.subsysnqn)
    if device:
        kernel = device.kernel
        role = DISCOVERY if kernel.cntrltype == DISCOVERY else IO
        return target_of(role, kernel.transport, kernel.traddr, kernel.trsvcid, kernel.subsysnqn)
    return None


def _row(entry: Entry, known: Mapping[Target, Sequence[Controller]], refused: dict[str, str]) -> _Row:
    kind, transport = _KINDS.get(entry.subtype, f"type {entry.subtype}"), TRTYPES.get(entry.trtype, f"{entry.trtype}")
    if entry.subtype == SELF:
        return _Row(entry, kind, transport, "-", "the discovery controller that was asked")
    # As discoverd.sources.discovery_log words it.
    reason = refused.get(f"entry {entry.number}, {entry.subnqn[:80]!r}")
    if reason:
        return _Row(entry, kind, transport, "refused", reason)
    role = DISCOVERY if entry.subtype == REFERRAL else IO
    try:
        service = entry.trsvcid if transport in ("tcp", "rdma") else ""
        tid = TransportId.make(role, transport, entry.traddr, service, entry.subnqn)
    except TidError as error:
        return _Row(entry, kind, transport, "refused", str(error))
    some = known.get(target_of(role, tid.transport, tid.traddr, tid.trsvcid, tid.subsysnqn), ())
    if not some:
        return _Row(entry, kind, transport, "left out", "discoverd does not ask for it; see: discoverctl status")
    best, *others = sorted(some, key=lambda one: (not one.live, bool(one.excluded)))
    result, detail = _became(best)
    also = [f"{one.name}: {one.device.name if one.live and one.device else one.state}" for one in others]
    names = tuple(one.name for one in (best, *others))
    return _Row(entry, kind, transport, result, "; ".join([detail, *also]), names)


def _became(one: Controller) -> tuple[str, str]:
    """Return the result of a controller, and why or where."""
    if one.excluded:
        connected = f"{one.device.name} stays connected, " if one.device else ""
        return "excluded", f"{connected}excluded by {one.excluded}"
    if one.live and one.device:
        return "connected", one.device.name
    return one.state, one.status


def _document(controller: Controller, read: PageRead, overview: Overview) -> dict[str, object]:
    page = read.page
    return {
        "controller": controller.name,
        "generation": page.generation,
        "records": page.records,
        "age_seconds": round(_age(read), 3),
        "entries": [
            {
                "number": row.entry.number,
                "kind": row.kind,
                "transport": row.transport,
                "traddr": row.entry.traddr,
                "trsvcid": row.entry.trsvcid,
                "subsysnqn": row.entry.subnqn,
                "result": row.result,
                "detail": row.detail,
                "controller": row.controllers[0] if row.controllers else "",
                "controllers": list(row.controllers),
            }
            for row in _rows(controller, read, overview)
        ],
        "unreadable": [{"number": number, "reason": reason} for number, reason in page.refused],
        "beyond": page.beyond,
    }
