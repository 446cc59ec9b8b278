# SPDX-License-Identifier: Apache-2.0
"""News of links, addresses and routes end the waiting of those workers whose target they may lead to, and of no others.

In a network namespace with two cables, d0-e0 and d1-e1, where the machine lets us make one.
"""

import subprocess
import sys
from pathlib import Path
from struct import pack

import pytest

import discoverd
from discoverd.kernel import routes

INSIDE = """
import json, select, subprocess, sys, time
sys.path.insert(0, {package!r})
from discoverd.kernel import routes
from discoverd.worker.links import Links

# The kernel looks at carriers once a second, and tells of a change in several messages.
CARRIER = 1.2

def ip(change):
    subprocess.run(["ip", *change.split()], check=True)

def wait_for_carriers():
    while True:
        links = json.loads(subprocess.run(["ip", "-json", "link"], stdout=subprocess.PIPE, check=True).stdout)
        if all(link["operstate"] == "UP" for link in links if link["ifname"] != "lo"):
            time.sleep(0.1)
            return
        time.sleep(0.02)

def heard(change, *waiting):
    '''Which of these workers, given by the options of their connects, the change concerned.'''
    links = [Links(options) for options in waiting]
    came = dict.fromkeys(links, False)
    ip(change)
    end = time.monotonic() + (CARRIER if change.startswith("link") else 0.2)
    while (left := end - time.monotonic()) > 0:
        for one in select.select(links, [], [], left)[0]:
            came[one] |= one.came_up()
    print(*(int(one) for one in came.values()))
    for one in links:
        one.close()

# No addresses that the kernel makes up, and tests for seconds.
with open("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "w") as setting:
    setting.write("1")
ip("link set lo up")
for n in (0, 1):
    ip(f"link add d{{n}} type veth peer e{{n}}")
    ip(f"address add 192.0.2.{{1 + 64 * n}}/26 dev d{{n}}")
    ip(f"address add 2001:db8:{{n}}::1/64 dev d{{n}} nodad")
    ip(f"link set d{{n}} up")
    ip(f"link set e{{n}} up")
wait_for_carriers()
first, second = {{"traddr": "192.0.2.2"}}, {{"traddr": "192.0.2.66"}}
{body}
"""


def inside(body: str) -> list[str]:
    """Run a body in a network namespace of its own and return the lines that it prints."""
    code = INSIDE.format(package=str(Path(discoverd.__file__).parent.parent), body=body)
    command = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode and ("unshare:" in done.stderr or "Unknown device type" in done.stderr):
        pytest.skip(f"no network namespace with interfaces here: {done.stderr.strip()[-100:]}")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_way_to_a_target() -> None:
    lines = inside("""
ip("route add 198.51.100.0/24 via 192.0.2.66")
ip("rule add from 192.0.2.65 table 7")
ip("route add 203.0.113.0/24 dev d1 table 7")
ip("route add unreachable 198.51.100.128/25")
import _socket
names = dict(_socket.if_nameindex())
for target, source in (
    ("192.0.2.2", ""), ("192.0.2.66", ""), ("198.51.100.3", ""), ("2001:db8:1::9", ""),
    ("127.0.0.1", ""), ("192.0.2.1", ""), ("2001:db8::1", ""),
    ("203.0.113.1", ""), ("203.0.113.1", "192.0.2.65"), ("192.0.2.2", "192.0.2.3"), ("198.51.100.200", ""),
    ("2001:db8:7::1", ""), ("nn-0x1:pn-0x2", ""), ("192.0.2.2", "2001:db8::1"),
):
    print(*([names[index] for index in routes.interfaces(target, source)] or ["none"]))
""")
    assert lines[:4] == ["d0", "d1", "d1", "d1"]
    assert lines[4:7] == ["lo"] * 3, "an address of this host"
    assert lines[7:11] == ["none", "d1", "none", "none"]
    assert lines[11:] == ["none"] * 3


def test_a_link_concerns_those_whose_route_leads_through_it() -> None:
    lines = inside("""
ip("link set e0 down")
heard("link set e0 up", first, second)
ip("link set e1 down")
heard("link set e1 up", first, second, {"traddr": "2001:db8:1::2"}, {"traddr": "127.0.0.1"})
heard("link set e1 down", second)
""")
    assert lines == ["1 0", "0 1 1 1", "0"]


def test_an_address_concerns_those_whose_route_leads_through_its_interface() -> None:
    lines = inside("""
heard("address add 192.0.2.3/26 dev d0", first, second, {"traddr": "192.0.2.2", "host_traddr": "192.0.2.3"})
heard("address add 2001:db8:1::3/64 dev d1 nodad", first, {"traddr": "2001:db8:1::2"})
heard("address add 203.0.113.1/24 dev d0", {"traddr": "203.0.113.2"}, {"traddr": "198.51.100.1"})
""")
    assert lines == ["1 0 1", "0 1", "1 0"]


def test_a_route_concerns_those_whom_it_serves() -> None:
    lines = inside("""
far = {"traddr": "198.51.100.1"}
heard("route add default via 192.0.2.2", far, second)
heard("route add 2001:db8:7::/64 dev d1", far, {"traddr": "2001:db8:7::1"})
heard("route replace default nexthop via 192.0.2.2 nexthop via 192.0.2.66", far, {"traddr": "2001:db8:8::1"})
""")
    assert lines[0] == "1 0"
    assert lines[1] == "0 1"
    assert lines[2] == "1 0", "a route of several ways"


# Multipath routes -----------------------------------------------------------------------------------------

# Twenty targets behind one route: the kernel's hash picks both next hops for some of them.
MULTIPATH = """
ip("link add d2 type veth peer e2")
ip("link set d2 up")
ip("link set e2 up")
ip("address add 203.0.113.1/24 dev d2")
ip("address add 2001:db8:2::1/64 dev d2 nodad")
wait_for_carriers()
def named(target, source=""):
    import _socket
    return sorted(_socket.if_indextoname(index) for index in routes.interfaces(target, source))
ip("route add 198.51.100.0/24 nexthop via 192.0.2.2 nexthop via 192.0.2.66")
ip("-6 route add 2001:db8:7::/64 nexthop via 2001:db8::2 nexthop via 2001:db8:1::2")
far4 = [{"traddr": f"198.51.100.{n}"} for n in range(1, 21)]
far6 = [{"traddr": f"2001:db8:7::{n}"} for n in range(1, 21)]
"""


def test_multipath_route_has_all_its_next_hops() -> None:
    lines = inside(f"""
{MULTIPATH}
for one in far4 + far6:
    print(*named(one["traddr"]))
print(*named("203.0.113.9"), *named("2001:db8:2::9"))
ip("link set e1 down")
time.sleep(CARRIER)
print(*named("198.51.100.1"), *named("2001:db8:7::1"))
""")
    assert lines[:40] == ["d0 d1"] * 40
    assert lines[40] == "d2 d2"
    assert lines[41] == "d0 d1 d0 d1", "a next hop that is down is the one to wait for"


def test_multipath_route_of_another_source() -> None:
    lines = inside(f"""
{MULTIPATH}
ip("rule add from 203.0.113.1 table 7")
ip("route add 198.51.100.0/24 table 7 nexthop via 203.0.113.9 nexthop via 192.0.2.2")
ip("-6 rule add from 2001:db8:2::1 table 7")
ip("-6 route add 2001:db8:7::/64 table 7 nexthop via 2001:db8:2::9 nexthop via 2001:db8::2")
for n in range(1, 11):
    print(*named(f"198.51.100.{{n}}", "203.0.113.1"), *named(f"2001:db8:7::{{n}}", "2001:db8:2::1"))
print(*named("198.51.100.1", "192.0.2.1"), *named("2001:db8:7::1", "2001:db8::1"))
""")
    assert lines == [*["d0 d2 d0 d2"] * 10, "d0 d1 d0 d1"]


@pytest.mark.parametrize(("compatible", "all_of_them"), [(1, True), (0, False)])
def test_multipath_route_of_nexthop_objects(compatible: int, all_of_them: bool) -> None:
    """Where the kernel tells the object's number only, the next hop that it would take has to do."""
    lines = inside(f"""
{MULTIPATH}
with open("/proc/sys/net/ipv4/nexthop_compat_mode", "w") as setting:
    setting.write("{compatible}")
for n, (via4, via6) in enumerate((("192.0.2.2", "2001:db8::2"), ("192.0.2.66", "2001:db8:1::2"))):
    ip(f"nexthop add id {{n + 1}} via {{via4}} dev d{{n}}")
    ip(f"nexthop add id {{n + 11}} via {{via6}} dev d{{n}}")
ip("nexthop add id 7 group 1/2")
ip("nexthop add id 17 group 11/12")
ip("route add 198.18.0.0/24 nhid 7")
ip("-6 route add 2001:db8:8::/64 nhid 17")
print(*named("198.18.0.1"))
print(*named("2001:db8:8::1"))
""")
    assert lines == ["d0 d1"] * 2 if all_of_them else set(lines) <= {"d0", "d1"}


def test_news_of_each_next_hop_concern_the_target() -> None:
    lines = inside(f"""
{MULTIPATH}
for change in (
    "address add 192.0.2.3/26 dev d0",
    "address add 192.0.2.67/26 dev d1",
    "address add 203.0.113.2/24 dev d2",
    "-6 address add 2001:db8::3/64 dev d0 nodad",
    "-6 address add 2001:db8:1::3/64 dev d1 nodad",
    "-6 address add 2001:db8:2::3/64 dev d2 nodad",
):
    heard(change, *far4, *far6)
ip("link set e1 down")
heard("link set e1 up", *far4, *far6)
""")
    yes, no = " ".join("1" * 40), " ".join("0" * 40)
    assert lines == [yes, yes, no, yes, yes, no, yes]


def test_news_of_a_multipath_route_concern_those_behind_its_next_hops() -> None:
    lines = inside(f"""
{MULTIPATH}
other4, other6 = {{"traddr": "203.0.113.9"}}, {{"traddr": "2001:db8:2::9"}}
heard("route add 198.18.0.0/24 nexthop via 192.0.2.2 nexthop via 192.0.2.66", first, second, other4)
heard("-6 route add 2001:db8:8::/64 nexthop via 2001:db8::2 nexthop via 2001:db8:1::2", far6[0], far6[9], other6)
""")
    assert lines == ["1 1 0"] * 2


def test_a_named_interface_is_all_that_counts() -> None:
    lines = inside("""
here, there = {"traddr": "192.0.2.66", "host_iface": "d0"}, {"traddr": "192.0.2.66", "host_iface": "d7"}
zone = {"traddr": "fe80::1%d0"}
heard("address add 192.0.2.3/26 dev d0", here, there, zone)
heard("address add 192.0.2.67/26 dev d1", here, there, zone)
""")
    assert lines == ["1 0 1", "0 0 0"]


def test_a_flood_counts_as_news(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = inside("""
one = Links(second)
for n in range(2000):
    if n % 100 == 0:
        batch = []
    batch.append(f"route replace 198.51.{n % 256}.{n // 256}/32 dev d0\\n")
    if n % 100 == 99:
        subprocess.run(["ip", "-batch", "-"], input="".join(batch), text=True, check=True)
print(int(one.came_up()))
""")
    assert lines == ["1"]


def test_a_message_that_is_cut_short_names_no_interface() -> None:
    whole = bytes(28) + b"\x08\0\x04\0\x07\0\0\0"
    assert routes.outputs(whole) == {7}
    for size in range(len(whole)):
        assert routes.outputs(whole[:size]) == set()
    assert routes.outputs(bytes(28) + bytes(8)) == set()


def test_next_hops_that_are_cut_short_name_no_interface() -> None:
    one, two = b"\x10\0\0\0\x07\0\0\0\x08\0\x05\0\xc0\0\x02\x02", b"\x08\0\x01\0\x09\0\0\0"
    hops = one + two

    def message(data: bytes) -> bytes:
        return bytes(28) + pack("=HH", 4 + len(data), 0x8009) + data

    assert routes.outputs(message(hops)) == {7, 9}
    for size in range(len(hops)):
        assert routes.outputs(message(hops[:size])) == ({7} if size >= 8 else set())
        assert routes.outputs(message(hops)[: 32 + size]) == set()
    assert routes.outputs(message(bytes(8))) == set()
