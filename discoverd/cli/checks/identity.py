# SPDX-License-Identifier: Apache-2.0
"""Who this host is to its targets: the host NQN and the host ID."""

from collections.abc import Iterable

from discoverd.cli.checks.finding import Finding, hint, problem
from discoverd.cli.overview import Controller
from discoverd.config.fabrics import load_fabrics
from discoverd.config.identity import derived_hostid, load_host_identity
from discoverd.config.model import FabricsConfig
from discoverd.config.placeholders import PLACEHOLDERS
from discoverd.kernel.controllers import canonical_nqn

_NEW_NQN = "nvme gen-hostnqn > /etc/nvme/hostnqn"


def check(controllers: Iterable[Controller]) -> list[Finding]:
    """Return what is wrong with the host's identity, and with what is connected under another."""
    host = load_host_identity()
    found = [problem(f"{one.path}: {one.message}", one.hint or "mend the file") for one in host.diagnostics]
    own = derived_hostid(host.hostnqn)
    for value in sorted({own, host.hostid} & PLACEHOLDERS):
        text = f"the host's UUID {value} is a placeholder of firmware that many hosts have"
        found.append(problem(text, f"make one of its own: rm /etc/nvme/hostid; {_NEW_NQN}"))
    if own and host.hostid and own != host.hostid:
        text = f"the host ID {host.hostid} is not the UUID in the host NQN, {own}, as on a host that was cloned"
        found.append(hint(text, f"if no target counts on it: echo {own} > /etc/nvme/hostid"))
    if host.hostnqn:
        known = {host.hostnqn, *_personas(load_fabrics())}
        found += _others(controllers, {canonical_nqn(one) for one in known})
    return found


def _personas(config: FabricsConfig) -> set[str]:
    return {one.hostnqn for one in config.connections} | {one.hostnqn for one in config.scopes.values()}


def _others(controllers: Iterable[Controller], known: set[str]) -> list[Finding]:
    found = []
    for one in controllers:
        hostnqn = one.device.kernel.hostnqn if one.device else ""
        if one.device and hostnqn and canonical_nqn(hostnqn) not in known:
            text = f"{one.device.name} is connected as {hostnqn}, which is neither this host's NQN nor a configured one"
            found.append(hint(text, f"if the host NQN was changed since: discoverctl disconnect {one.device.name}"))
    return found
