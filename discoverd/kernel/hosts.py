# SPDX-License-Identifier: Apache-2.0
"""Which hosts the kernel has connections as.

It takes one host NQN for one host ID, and one ID for one NQN, as long as anything is connected with either
(drivers/nvme/host/fabrics.c, nvmf_host_add). It compares NQNs as text, and IDs as numbers.
"""

from discoverd.kernel import controllers


class Holder:
    """A controller that is connected as a host of which only one of host NQN and host ID is the one that is wanted."""

    __slots__ = ("device", "hostid", "hostnqn")

    def __init__(self, device: str, hostnqn: str, hostid: str) -> None:
        self.device = device
        self.hostnqn = hostnqn
        self.hostid = hostid

    def spells(self, hostnqn: str) -> bool:
        """Tell whether this is the same host, whose NQN was only spelled in another way."""
        return self.hostnqn != hostnqn and controllers.canonical_nqn(self.hostnqn) == controllers.canonical_nqn(hostnqn)


def holder(hostnqn: str, hostid: str) -> Holder | None:
    """Return a controller because of which the kernel takes no connection as this host, None if sysfs shows none.

    Blocks on sysfs; raises nothing.
    """
    for device in sorted(controllers.names()):
        held_nqn, held_id = (controllers.attribute(device, name) for name in ("hostnqn", "hostid"))
        if held_nqn and held_id and (held_nqn == hostnqn) != (held_id.lower() == hostid.lower()):
            return Holder(device, held_nqn, held_id)
    return None
