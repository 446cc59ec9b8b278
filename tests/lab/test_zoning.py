# SPDX-License-Identifier: Apache-2.0
"""What a fabric's zones give and take away, on a real kernel."""

from tests.lab import scenario, storage
from tests.lab.cdc import ADDRESS, Cdc, entry
from tests.lab.machine import Machine
from tests.lab.scenario import nqn, unit_name

FAR = "198.51.100.1"
UNIT = f"nvme-ctrl@tcp:{ADDRESS}:8009:{scenario.DISCOVERY}.service"
DEFAULTS = "[Discovery Controller Defaults]\nreconnect-delay = 1\nkeep-alive-tmo = 5\n"
# One and another, by names of their own.
A, B = "nqn.2024-08.com.example:a", "nqn.2024-08.com.example:b"
# Three of four at once are meant.
SETTINGS = "[Global]\ndisconnect-share = 100%\n"
CONFIGURATION = f"{DEFAULTS}[Discovery Controller]\ncontroller = transport=tcp;traddr={ADDRESS};trsvcid=8009\n"
# Longer than a page that takes something away is slept on.
LATER = 3


def lost(host: Machine) -> None:
    """Returns when the kernel has lost the discovery controller."""
    host.wait_until("grep -q connecting /sys/class/nvme/nvme*/state", what="the kernel has lost it")


def volumes(host: Machine) -> dict[str, tuple[str, str, str]]:
    """The I/O controllers."""
    return {name: row for name, row in scenario.controllers(host).items() if ":vol" in row[0]}


def withdrawn(host: Machine) -> list[str]:
    """The instances whose workers were told that nobody asks for their controller any more."""
    script = "cd /run/discoverd/controllers && grep -l '^withdrawn=' */spec"
    return host.run(script, check=False).stdout.split()


def processes(host: Machine) -> dict[str, int]:
    """The supervisor and every worker."""
    supervisor = int(host.run("systemctl show -P MainPID discoverd.service").stdout)
    return {"discoverd": supervisor} | {name: unit.main_pid for name, unit in scenario.units(host).items()}


def test_controller_removed_from_a_zone_is_disconnected_and_no_other(host: Machine) -> None:
    host.run(f"lab-target up --subsystems 4 --size {storage.SIZE_MIB} --ports {ADDRESS}:4420")
    host.run(f"modprobe nvme-tcp && nvme connect -t tcp -a {ADDRESS} -s 4420 -n {nqn(3)}")
    all_four = [nqn(number) for number in (1, 2, 3, 4)]
    entries = [entry(name) for name in all_four]
    hosts = [host.run("cat /etc/nvme/hostnqn").stdout.strip()]
    zones = {"z": {"hosts": hosts, "subsystems": all_four}}
    with Cdc(host, entries=entries, zones=zones) as cdc:

        def zone(*numbers: int) -> None:
            cdc.order("zone", name="z", hosts=hosts, subsystems=[nqn(number) for number in numbers])

        host.put("/etc/nvme/discoverd.conf", SETTINGS)
        scenario.start(host, CONFIGURATION)
        scenario.wait_live(host, 5)
        host.run("lab-storage use ext4=vol1")
        before = volumes(host)

        began = scenario.clock(host)
        zone(4)
        host.wait_until(lambda: unit_name(2) not in scenario.units(host), what="the unit of vol2 is gone")
        left = host.journal(unit_name(2))[-1]
        seconds = int(str(left.fields["__REALTIME_TIMESTAMP"])) / 1e6 - began
        print(f"from the zone without it to the end of its unit: {seconds:.1f} s")
        scenario.wait_unit(host, unit_name(1), "and stays: in use by")
        scenario.wait_unit(host, unit_name(3), "and stays: others connected it")
        assert volumes(host) == {name: row for name, row in before.items() if row[0] != nqn(2)}
        storage.wait_writing(host)
        page = f"it is no longer listed in the log page of tcp:{ADDRESS}:8009:{scenario.DISCOVERY} (generation 2)"
        assert any(page in line.message for line in host.journal(unit_name(2)))

        # Given back, by a zone, all of it is as it was. With the scope none nothing is taken away.
        host.put("/etc/nvme/discoverd.conf", SETTINGS + "disconnect-scope = none\n")
        host.run("systemctl reload discoverd.service")
        zone(1, 2, 3, 4)
        scenario.wait_live(host, 5)
        host.wait_until(lambda: not withdrawn(host), what="nothing is withdrawn")
        before = volumes(host)
        zone(1, 3)
        host.wait_until(lambda: len(withdrawn(host)) == 2, what="vol2 and vol4 are listed no more")
        host.run(f"sleep {LATER}")
        assert volumes(host) == before
        zone(1, 2, 3, 4)
        host.wait_until(lambda: not withdrawn(host), what="nothing is withdrawn")
        host.put("/etc/nvme/discoverd.conf", SETTINGS)
        host.run("systemctl reload discoverd.service")

        # Pages that are no evidence, and pages that are none.
        since = host.journal_end()
        pages: tuple[tuple[dict[str, object], str], ...] = (
            ({"raw": ""}, "0 entries"),
            ({"keep": 0.25}, "1 entry"),
            ({"garbage": 7}, "5 entries"),
            ({"numrec": 1}, "1 entry"),
            ({"numrec": 3}, "3 entries"),
            ({"keep": 0.5, "duplicates": 1200}, "2402 entries"),
            ({"half": True}, "claims 5 entries in"),
            ({"numrec": 9}, "claims 9 entries in"),
            ({"numrec": 20000}, "claims 20000 entries, more than"),
            ({"form": 1}, "record format 1"),
            # This one is right, in another way.
            ({"pad": True}, "5 entries"),
        )
        for words, said in pages:
            # None is said of the page before it as well.
            cdc.order("page", **words)
            scenario.wait_unit(host, UNIT, said)
        cdc.order("misbehave", step="log-entries", action="generation", times=40)
        cdc.order("page")
        scenario.wait_unit(host, UNIT, "changed during each of")
        # It dies, and comes back with nothing to list.
        cdc.kill()
        lost(host)
        assert not withdrawn(host)
        cdc.start()
        cdc.order("page", raw="")
        scenario.wait_unit(host, UNIT, "0 entries in its log page")
        host.run(f"sleep {LATER}")
        cdc.order("behave")
        scenario.wait_unit(host, UNIT, "5 entries in its log page")
        storage.wait_writing(host)
        assert volumes(host) == before
        assert not withdrawn(host)
        said_of = [
            line.message for line in host.journal("discoverd.service", since=since) if "no longer" in line.message
        ]
        assert not said_of


def test_two_that_refer_to_each_other_and_list_the_same(host: Machine) -> None:
    host.run(f"lab-target up --subsystems 3 --ports {ADDRESS}:4420 {FAR}:4420")
    both = [entry(nqn(1)), entry(nqn(1), FAR)]
    fabric = {"instances": {"a": {"nqn": A}, "b": {"nqn": B, "address": FAR}}, "referrals": {"a": ["b"], "b": ["a"]}}
    other = f"nvme-ctrl@tcp:{FAR}:8009:{B}.service"
    with Cdc(host, **fabric, entries=[*both, entry(nqn(2)), entry(nqn(3), instances=["b"])]) as cdc:

        def lists(unit: str, count: int) -> None:
            scenario.wait_unit(host, unit, f"{count} entries in its log page")

        # Asked for by the well-known name, it is the one to which the other refers by its own.
        scenario.start(host, CONFIGURATION)
        scenario.wait_live(host, 6)
        lists(UNIT, 5)
        lists(other, 6)
        assert len(scenario.units(host)) == 6
        before = volumes(host)

        # One of the two lists it no more; another moves from one to the other. Both list it before one does not: their
        # pages are read one after the other, and what none of them lists in between would rightly go.
        cdc.order("load", entries=[*both, entry(nqn(2)), entry(nqn(3))])
        lists(UNIT, 6)
        cdc.order("load", entries=[*both, entry(nqn(2), instances=["b"]), entry(nqn(3), instances=["a"])])
        lists(UNIT, 5)
        lists(other, 5)
        cdc.order("load", entries=[*both, entry(nqn(3), instances=["a"])])
        lists(other, 4)
        host.wait_until(lambda: nqn(2) not in scenario.live(host), what="vol2, which none of them lists, is gone")
        kept = {name: row for name, row in before.items() if row[0] != nqn(2)}
        assert volumes(host) == kept

        # A ring has an end: each was connected once, and read then and at its events.
        for name in ("a", "b"):
            assert len(cdc.history("connected", name)) == 1
            assert cdc.counter("log-reads", name) <= 10
        cdc.order("down", instance="b")
        scenario.wait_unit(host, other, "reconnecting")
        assert volumes(host) == kept
        assert not withdrawn(host)


def test_announced_cdc_is_registered_with_and_followed(host: Machine) -> None:
    host.run(f"lab-target up --subsystems 2 --ports {ADDRESS}:4420")
    unit = f"nvme-ctrl@tcp:{ADDRESS}:8009:{A}::path0.service"
    host.put(
        "/etc/nvme/discoverd.conf", "[Global]\nmdns-interfaces = path0\nmdns-families = ipv4\nregistration = all\n"
    )
    host.run("lab-mdns up && systemctl start avahi-daemon.service", timeout=scenario.GENEROUS)
    try:
        with Cdc(host, instances={"cdc": {"nqn": A}}, entries=[entry(nqn(1)), entry(nqn(2))]) as cdc:
            host.run(f"lab-mdns announce cdc 8009 p=tcp nqn={A}")
            scenario.start(host, DEFAULTS)
            scenario.wait_live(host, 3)
            scenario.wait_unit(host, unit, ", registered")
            assert len(cdc.registered()) == 1
            cdc.order("remove", nqn=nqn(2))
            scenario.wait_live(host, 2)
            # It says goodbye, and dies.
            before = volumes(host)
            host.run("lab-mdns withdraw cdc")
            cdc.kill()
            scenario.wait_unit(host, unit, "reconnecting")
            assert volumes(host) == before
    finally:
        host.run("lab-mdns down", check=False)


def test_fault_costs_a_reading_and_nothing_else(impatient: Machine) -> None:
    """Of a controller that is to be held in any case: one that goes on like this would be left else."""
    host = impatient
    host.run(f"lab-target up --subsystems 2 --ports {ADDRESS}:4420")
    held = CONFIGURATION.replace(
        "[Discovery Controller]\n", "[Discovery Controller]\npersistent = force\ndata-digest = true\n"
    )
    with Cdc(host, entries=[entry(nqn(1)), entry(nqn(2))]) as cdc:

        def over() -> bool:
            return not cdc.order("status")["rules"]

        def wrong(*rules: tuple[str, str, int]) -> None:
            for step, action, value in rules:
                cdc.order("misbehave", step=step, action=action, value=value, times=1)

        def right(count: int) -> None:
            """The page is read again, and tells something new; nothing else has changed."""
            cdc.order("add", **entry(nqn(9), f"192.0.2.{70 + count}", subtype=3))
            scenario.wait_unit(host, UNIT, f"{count} entries in its log page")
            scenario.wait_unit(host, UNIT, ", registered")
            assert volumes(host) == before
            assert processes(host) == alive

        scenario.start(host, held)
        scenario.wait_live(host, 3)
        before, alive = volumes(host), processes(host)

        # While it is read.
        wrong(
            ("log-header", "status", 0x4006),
            ("log-header", "garbage", 1),
            ("log-header", "short", 0),
            ("log-entries", "status", 0x2),
            ("log-entries", "garbage", 2),
            ("log-entries", "short", 0),
            ("log-entries", "delay", 3),
            ("log-entries", "digest", 0),
            ("log-entries", "cut", 0),
            ("log-entries", "drop", 0),
            ("log-entries", "type", 9),
            ("log-entries", "length", 1 << 31),
        )

        def urged() -> bool:
            cdc.order("event", force=True)
            return over()

        seconds = host.wait_until(urged, timeout=300, interval=1, what="all of it has gone wrong")
        print(f"twelve readings that go wrong: {seconds:.1f} s")
        right(4)

        # While it is connected.
        wrong(
            ("accept", "drop", 0),
            ("icreq", "cut", 0),
            ("connect", "status", 0x4),
            ("property-get", "drop", 0),
            ("identify", "cut", 0),
            ("dim", "garbage", 3),
            # From now on the kernel asks for no events, until it has connected again.
            ("features-set", "status", 0x4002),
        )
        cdc.order("disconnect")
        seconds = host.wait_until(over, timeout=300, interval=1, what="all of it has gone wrong")
        print(f"seven connections that go wrong: {seconds:.1f} s")

        # The kernel gives a controller up that says that there is no point in trying again; the worker does not.
        wrong(("connect", "status", 0x4182))
        cdc.order("disconnect")
        host.wait_until(over, timeout=90, what="the connect was refused for good")
        host.wait_until(lambda: cdc.connections(), timeout=90, what="it is connected again")
        right(5)
