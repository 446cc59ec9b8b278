# SPDX-License-Identifier: Apache-2.0
"""What a fabric's zones give and take away, on a real kernel."""

from tests.lab import scenario, storage
from tests.lab.cdc import ADDRESS, Cdc, entry
from tests.lab.machine import Machine
from tests.lab.scenario import nqn, unit_name

FAR = "198.51.100.1"
UNIT = f"nvme-ctrl@tcp:{ADDRESS}:8009:{scenario.DISCOVERY}.service"
DEFAULTS = "[Discovery Controller Defaults]\nreconnect-delay = 1\nkeep-alive-tmo = 5\n"
CONFIGURATION = f"{DEFAULTS}[Discovery Controller]\ncontroller = transport=tcp;traddr={ADDRESS};trsvcid=8009\n"
# Longer than a page that takes something away is slept on.
LATER = 3


def lost(host: Machine) -> None:
    """Returns when the kernel has lost the discovery controller."""
    host.wait_until("grep -q connecting /sys/class/nvme/nvme*/state", what="the kernel has lost it")


def volumes(host: Machine) -> dict[str, tuple[str, str, str]]:
    """The I/O controllers."""
    return {name: row for name, row in scenario.controllers(host).items() if row[0] != scenario.DISCOVERY}


def withdrawn(host: Machine) -> list[str]:
    """The instances whose workers were told that nobody asks for their controller any more."""
    script = "cd /run/discoverd/controllers && grep -l '^withdrawn=' */spec"
    return host.run(script, check=False).stdout.split()


def clock(host: Machine) -> float:
    """The machine's time, which its journal has too."""
    return float(host.run("date +%s.%N").stdout)


def test_what_a_zone_takes_away_is_disconnected_and_nothing_else_is(host: Machine) -> None:
    host.run(f"lab-target up --subsystems 4 --size {storage.SIZE_MIB} --ports {ADDRESS}:4420")
    host.run(f"modprobe nvme-tcp && nvme connect -t tcp -a {ADDRESS} -s 4420 -n {nqn(3)}")
    all_four = [nqn(number) for number in (1, 2, 3, 4)]
    entries = [entry(name) for name in all_four]
    hosts = [host.run("cat /etc/nvme/hostnqn").stdout.strip()]
    zones = {"z": {"hosts": hosts, "subsystems": all_four}}
    with Cdc(host, entries=entries, zones=zones) as cdc:

        def zone(*numbers: int) -> None:
            cdc.order("zone", name="z", hosts=hosts, subsystems=[nqn(number) for number in numbers])

        scenario.start(host, CONFIGURATION)
        scenario.wait_live(host, 5)
        host.run("lab-storage use ext4=vol1")
        before = volumes(host)

        began = clock(host)
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
        host.put("/etc/nvme/discoverd.conf", "[Global]\ndisconnect-scope = none\n")
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
        host.put("/etc/nvme/discoverd.conf", "")
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
        )
        for words, said in pages:
            shown = scenario.unit(host, UNIT).status
            cdc.order("page", **words)
            scenario.wait_unit(host, UNIT, said)
            assert scenario.unit(host, UNIT).status != shown
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
