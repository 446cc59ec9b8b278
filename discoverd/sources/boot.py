# SPDX-License-Identifier: Apache-2.0
"""Controllers that were connected before the system was booted, by the initial RAM disk or by firmware's order.

They are taken over as they are. Which they are, discoverd-boot.service has written down before anybody could connect
one by hand (discoverd/boot_record.py); and what the registry says firmware asked for, needs no record.
"""

import logging

from discoverd import boot_record, registry, state
from discoverd.kernel import controllers
from discoverd.plan.candidate import BOOT, DISCOVERY_KEEP_ALIVE, Candidate
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, IO, TidError, TransportId, unit_instance

log = logging.getLogger("discoverd.boot")

# nvme-cli's udev rule, in the initial RAM disk too, connects under this name; it does not look after what it connects.
_LEGACY_OWNER = "autoconnect"


def claims(hostnqn: str) -> tuple[Candidate, ...]:
    """Return the controllers of the boot that are there and nobody else's, to be kept as they are. Blocks.

    ``hostnqn`` is the host's own. One that nvme-cli's udev rule connected changes hands here.
    """
    recorded = boot_record.recorded()
    found = []
    for device in sorted(controllers.names()):
        try:
            owner = registry.retrieve(device, "owner")
            if device not in recorded and _made_since(device):
                continue
        except OSError as error:
            log.warning("%s is left alone: its entry in %s is unreadable: %s", device, registry.ROOT, error.strerror)
            continue
        if owner == registry.FIRMWARE_OWNER or (device in recorded and owner in (None, registry.OWNER, _LEGACY_OWNER)):
            try:
                live = controllers.Controller(device)
                candidate = existing(live, hostnqn, f"{device} since the boot", BOOT)
                if owner == _LEGACY_OWNER:
                    registry.claim(device, registry.OWNER, candidate.tid.unit, adopted=True)
            except TidError as error:
                log.warning("%s was connected at boot and is left alone: %s", device, error)
            except OSError as error:
                log.warning("%s was connected at boot, and cannot be entered: %s", device, error.strerror)
            else:
                found.append(candidate)
    return tuple(found)


def _made_since(device: str) -> bool:
    """Tell whether a unit of ours holds it for another source: what we connect for firmware is entered as firmware's.

    Claimed when discoverd is restarted, it would get a second unit where it was connected from another address than
    firmware's table has.
    """
    instance = unit_instance(registry.retrieve(device, "unit") or "")
    if not instance:
        return False
    try:
        return state.Spec.decode(state.read(state.directory(instance) + "/spec")).origin != BOOT
    except state.StateError:
        return False  # There is none, or none that can be read.


def existing(live: controllers.Controller, hostnqn: str, source: str, origin: str) -> Candidate:
    """Return the candidate for a connection as it is. Raises TidError."""
    role = DISCOVERY if live.cntrltype == "discovery" else IO
    address, interface = live.host_traddr, live.host_iface if live.transport == "tcp" else ""
    if live.transport == "tcp" and (address or interface):
        # A path that was asked for by half of its host's side: whoever asks for it by the other half, or by all of it,
        # means this one.
        address = live.src_addr or address
        interface = interface or controllers.interface_of(address)
    tid = TransportId.make(
        role,
        live.transport,
        live.traddr,
        live.trsvcid,
        live.subsysnqn,
        host_traddr=address,
        host_iface=interface,
        hostnqn="" if controllers.canonical_nqn(live.hostnqn) == controllers.canonical_nqn(hostnqn) else live.hostnqn,
    )
    options = [("nqn", live.subsysnqn), ("transport", live.transport), ("traddr", tid.traddr)]
    # As the kernel has it: a connect, should it ever be lost, must make the same one.
    options += [
        (name, value)
        for name, value in (
            ("host_traddr", live.host_traddr),
            ("host_iface", live.host_iface),
            ("trsvcid", tid.trsvcid),
            ("hostnqn", live.hostnqn),
            ("hostid", live.hostid),
            ("dhchap_secret", controllers.attribute(live.device, "dhchap_secret")),
            ("dhchap_ctrl_secret", controllers.attribute(live.device, "dhchap_ctrl_secret")),
        )
        if value
    ]
    if role == DISCOVERY:
        options += [("discovery", "")] if live.subsysnqn != DISCOVERY_NQN else []
        options.append(("keep_alive_tmo", DISCOVERY_KEEP_ALIVE))
    return Candidate(tid, role, source, origin, tuple(options))
