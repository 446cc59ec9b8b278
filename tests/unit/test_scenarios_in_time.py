# SPDX-License-Identifier: Apache-2.0
"""What happens one after the other: restarts between any two steps, sources in another order, news that come late."""

import pytest

from discoverd.candidate import BOOT, NBFT, Candidate
from discoverd.tid import IO, TransportId
from discoverd.wanted import fold

DC = "tcp:192.0.2.1:8009:nqn.2014-08.org.nvmexpress.discovery"


def path(origin: str, iface: str = "", source: str = "") -> Candidate:
    tid = TransportId.make(IO, "tcp", "192.0.2.1", "", "nqn.a", host_traddr=source, host_iface=iface)
    return Candidate(tid, IO, f"asked for by {origin}", origin, (("nqn", "nqn.a"),), led=True)


# A restart of the supervisor ------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [BOOT, DC])
def test_a_unit_that_took_in_a_path_keeps_it_after_a_restart(first: str) -> None:
    """It connected before the paths were known; none of the three units may change what it stands for."""
    any_path, east, west = path(first), path(NBFT, "eth0"), path(NBFT, "eth1")
    existing = {any_path.tid.instance}
    folded = fold([any_path, east, west], existing.__contains__)
    assert any_path.tid.instance in folded and len(folded) == 2
    existing |= folded.keys()
    assert fold([west, east, any_path], existing.__contains__) == folded
