# SPDX-License-Identifier: Apache-2.0
"""What hypothesis draws identities from."""

from hypothesis import strategies as st

from discoverd.tid import DISCOVERY_NQN, IO, TransportId

# Close to one another, so that draws collide and differ in one place only.
_PLACES = "abz09:-_.@%\\/~é"
peer_nqns = st.one_of(
    st.just(DISCOVERY_NQN),
    st.text(alphabet=_PLACES, max_size=40).map("nqn.".__add__),
    st.text(alphabet="ab:.\\é", min_size=60, max_size=104).map("nqn.2024-08.com.example:".__add__),
)
ipv4 = st.ip_addresses(v=4).map(str)
ipv6 = st.one_of(
    st.ip_addresses(v=6).map(str),
    st.sampled_from(["fe80::1%eth0", "fe80::1%eth1", "fe80::1"]),
)
wwns = st.integers(0, 2**64 - 1)
fc_addresses = st.builds("nn-0x{:x}:pn-0x{:x}".format, wwns, wwns)
interfaces = st.sampled_from(["", "eth0", "eth1", "bond0.12", "eth0@if2", "wl+1"])
ports = st.sampled_from(["", "1", "4420", "8009", "65535"])


@st.composite
def tids(draw: st.DrawFn) -> TransportId:
    """An identity that could come from configuration or a log page."""
    transport = draw(st.sampled_from(["tcp", "rdma", "fc", "loop"]))
    port = interface = host = ""
    if transport in ("tcp", "rdma"):
        family = draw(st.sampled_from([ipv4, ipv6]))
        address = draw(family)
        # An IPv4-mapped address becomes one of the other family.
        if "::ffff:" not in address:
            host = draw(st.one_of(st.just(""), family.filter(lambda text: "::ffff:" not in text)))
        port = draw(ports)
        interface = draw(interfaces) if transport == "tcp" else ""
    elif transport == "fc":
        address = draw(fc_addresses)
        host = draw(st.one_of(st.just(""), fc_addresses))
    else:
        address = draw(st.sampled_from(["", "loop0", "a.b-c"]))
    return TransportId.make(
        IO,
        transport,
        address,
        port,
        draw(peer_nqns),
        host_traddr=host,
        host_iface=interface,
        hostnqn=draw(st.sampled_from(["", "nqn.2024-08.com.example:h1", "nqn.2024-08.com.example:h2"])),
    )
