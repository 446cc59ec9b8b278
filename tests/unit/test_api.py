# SPDX-License-Identifier: Apache-2.0
"""The D-Bus API on a bus of its own: what it shows, what changes, what it hands on, and what it never says."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from discoverd import store
from discoverd.api import actions, devices, interfaces, wire
from discoverd.api.connection import BUS, BUS_PATH, TEXT_BYTES_MAX, RefusedError
from discoverd.api.interfaces import (
    CONTROLLER,
    CONTROLLERS,
    DISCOVERY,
    INTROSPECTABLE,
    MANAGER,
    NAME,
    PEER,
    PROPERTIES,
    ROOT,
    SUBSYSTEM,
    SUBSYSTEMS,
    object_path,
)
from discoverd.tid import unit_name
from discoverd.version import VERSION

from . import log_pages
from .fake_host import until
from .private_bus import (
    DC,
    HOSTNQN,
    NQN,
    SECRET,
    Bus,
    Client,
    bus,
    client,
    instance,
    kernel,
    needs_bus,
    page,
    plan,
    populate,
    refused,
    report,
    spec,
)

__all__ = ["bus"]

pytestmark = needs_bus
PROJECT = Path(__file__).parents[2]
ONE = instance(1)
ONE_PATH = object_path(CONTROLLERS, ONE)
DC_PATH = object_path(CONTROLLERS, DC)


def serve(bus: Bus, test: Callable[[Client], Awaitable[None]]) -> None:
    """Run a test as a client of the API."""

    async def run() -> None:
        async with bus.api(), client() as one:
            await one.subscribe()
            await test(one)

    asyncio.run(run())


def test_every_fact_of_list_and_why_is_a_property(bus: Bus) -> None:
    populate(bus, 3)
    kernel("nvme4", ONE)
    device = Path(bus.folder / "sys/nvme4").stat().st_ino
    live = {"status": "live nvme4", "device": "nvme4", "kernel-instance": str(device), "attempt": "0"}
    report(ONE, "live", **live)

    async def test(one: Client) -> None:
        objects = await one.managed()
        assert set(objects) == {
            *(object_path(CONTROLLERS, name) for name in (DC, *map(instance, range(3)))),
            *(object_path(SUBSYSTEMS, NQN.format(number)) for number in range(3)),
        }
        shown = objects[ONE_PATH][CONTROLLER]
        assert set(shown) == {name for name, _ in interfaces.OURS[CONTROLLER].properties}
        assert shown["Instance"] == ONE
        assert shown["Unit"] == unit_name(ONE)
        assert (shown["LoadState"], shown["ActiveState"], shown["SubState"]) == ("loaded", "active", "running")
        assert (shown["State"], shown["Live"], shown["Device"], shown["KernelState"]) == ("live", True, "nvme4", "live")
        assert (shown["Transport"], shown["Address"], shown["Service"]) == ("tcp", "192.0.2.2", "4420")
        assert shown["SubsystemNQN"] == NQN.format(1)
        assert shown["Sources"] == "configured in nvme-fabrics.conf:3"
        assert shown["HostNQN"] == HOSTNQN
        assert shown["Options"] == {"keep_alive_tmo": "30", "hdr_digest": ""}
        assert (shown["Model"], shown["Serial"]) == ("Example Array", "0123")
        assert shown["ReportTimestampBoottime"] == 100_000_000
        assert "discoverd keeps it, because it is configured in nvme-fabrics.conf:3." in shown["Why"]
        assert shown["Subsystem"] == object_path(SUBSYSTEMS, NQN.format(1))
        assert objects[shown["Subsystem"]] == {SUBSYSTEM: {"NQN": NQN.format(1), "Controllers": [ONE_PATH], "Live": 1}}
        other = objects[object_path(CONTROLLERS, instance(2))][CONTROLLER]
        assert (other["State"], other["Attempt"], other["Status"]) == ("waiting", 2, "waiting 8 s: connection refused")
        assert set(objects[DC_PATH]) == {CONTROLLER, DISCOVERY}
        manager = await one.call(ROOT, PROPERTIES, "GetAll", "s", MANAGER, answer="a{sv}")
        assert {name: value for name, (_, value) in manager.items()} == {
            "Version": VERSION,
            "State": "active",
            "Status": "all is well",
            "HostNQN": HOSTNQN,
            "HostID": "11111111-2222-4333-8444-555555555555",
            "Counts": {"live": 1, "waiting": 3},
            "Live": 1,
            "Problems": [],
            "Refusals": [],
            "Fault": "",
        }

    serve(bus, test)


def test_no_secret_whatever_is_asked(bus: Bus) -> None:
    populate(bus, 2)
    report(ONE, "waiting", cause=f"the kernel refuses dhchap_secret={SECRET}")
    plan({DC: "keep", ONE: "keep"}, complaints=[f"nvme-fabrics.conf:3: {SECRET} is no secret"])
    page(log_pages.page())

    async def test(one: Client) -> None:
        said = [repr(await one.managed()), repr(await one.call(ROOT, MANAGER, "Plan", answer="a(sssss)"))]
        for path, interface in ((ROOT, MANAGER), (ONE_PATH, CONTROLLER), (DC_PATH, DISCOVERY)):
            said.append(repr(await one.call(path, PROPERTIES, "GetAll", "s", interface, answer="a{sv}")))
        assert "<secret>" in said[0], "the secret was there to be told"
        for text in said:
            assert SECRET[:16] not in text

    serve(bus, test)


def test_changes_are_signalled_and_nothing_else(bus: Bus) -> None:
    populate(bus, 3)

    async def test(one: Client) -> None:
        bus.systemd.change(unit_name(ONE), "failed")
        await until(lambda: bool(one.heard("PropertiesChanged")))
        interface, changed, _ = one.heard("PropertiesChanged")[0].values("sa{sv}as")
        assert interface == CONTROLLER
        assert one.heard("PropertiesChanged")[0].text(wire.PATH) == ONE_PATH
        assert changed["ActiveState"] == ("s", "failed")
        assert changed["State"] == ("s", "failed")
        assert "Instance" not in changed
        assert "Unit" not in changed
        await until(lambda: bool(one.heard("Event")))
        _, event, path, name, _ = one.heard("Event")[0].values("tsoss")
        assert (event, path, name) == ("failed", ONE_PATH, ONE)
        await until(lambda: ROOT in {found.text(wire.PATH) for found in one.heard("PropertiesChanged")})
        counts = [one.values("sa{sv}as") for one in one.heard("PropertiesChanged") if one.text(wire.PATH) == ROOT]
        assert counts[-1][1]["Counts"] == ("a{su}", {"failed": 1, "waiting": 3})

        await asyncio.to_thread(report, ONE, "live")
        await until(lambda: len(one.heard("PropertiesChanged")) >= 3)
        others = {found.text(wire.PATH) for found in one.heard("PropertiesChanged")}
        assert others == {ONE_PATH, ROOT}

    serve(bus, test)


def test_controllers_and_subsystems_come_and_go(bus: Bus) -> None:
    populate(bus, 1)
    new = instance(7)
    path = object_path(CONTROLLERS, new)

    async def test(one: Client) -> None:
        await asyncio.to_thread(spec, new)
        await asyncio.to_thread(report, new)
        bus.systemd.change(unit_name(new), "active")
        await asyncio.to_thread(plan, dict.fromkeys((DC, instance(0), new), "keep"))
        await until(lambda: len(one.heard("InterfacesAdded")) == 2)
        added = dict(found.values("oa{sa{sv}}") for found in one.heard("InterfacesAdded"))
        assert set(added) == {path, object_path(SUBSYSTEMS, NQN.format(7))}
        assert added[path][CONTROLLER]["Instance"] == ("s", new)
        assert path in await one.managed()

        await asyncio.to_thread(store.forget, new)
        del bus.systemd.active[unit_name(new)]
        bus.systemd.change(unit_name(DC), "active")
        bus.systemd.connection.signal(
            *("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", "UnitRemoved", "so"),
            wire.marshal("so", unit_name(new), "/a"),
        )
        await asyncio.to_thread(plan, dict.fromkeys((DC, instance(0)), "keep"))
        await until(lambda: len(one.heard("InterfacesRemoved")) == 2)
        removed = dict(found.values("oas") for found in one.heard("InterfacesRemoved"))
        assert removed == {path: [CONTROLLER], object_path(SUBSYSTEMS, NQN.format(7)): [SUBSYSTEM]}
        left = {DC_PATH, object_path(CONTROLLERS, instance(0)), object_path(SUBSYSTEMS, NQN.format(0))}
        assert set(await one.managed()) == left
        assert one.heard("Event")[-1].values("tsoss")[1:4] == ("gone", path, new)

    serve(bus, test)


def test_log_page_with_the_controllers_that_it_lists(bus: Bus) -> None:
    populate(bus, 3)
    new = "nqn.2024-08.com.example:new"
    entries = [log_pages.entry(NQN.format(1), "192.0.2.2"), log_pages.entry(new, "192.0.2.9")]
    page(log_pages.page(*entries, generation=7))

    async def test(one: Client) -> None:
        shown = (await one.managed())[DC_PATH][DISCOVERY]
        assert (shown["Generation"], shown["Entries"], shown["ReadTimestampBoottime"]) == (7, 2, 5_000_000)
        assert (shown["Asked"], shown["Fault"]) == ("all", "")
        answer = "tts" + interfaces.LOG_ENTRIES
        generation, read, asked, entries = await one.call(DC_PATH, DISCOVERY, "LogPage", answer=answer)
        assert (generation, read, asked) == (7, 5_000_000, "all")
        assert [(entry[10], entry[11], entry[13]) for entry in entries] == [
            (NQN.format(1), "192.0.2.2", ONE_PATH),
            (new, "192.0.2.9", "/"),
        ]
        again = await asyncio.gather(*(one.call(DC_PATH, DISCOVERY, "LogPage", answer=answer) for _ in range(8)))
        assert all(found[0] == 7 for found in again)
        await asyncio.to_thread(page, log_pages.page(generation=8))
        await until(lambda: bool(one.heard("PropertiesChanged")))
        assert one.heard("PropertiesChanged")[0].values("sa{sv}as")[1]["Generation"] == ("t", 8)
        assert (await one.call(DC_PATH, DISCOVERY, "LogPage", answer=answer))[3] == []

    serve(bus, test)


def test_without_a_log_page_there_is_a_reason(bus: Bus) -> None:
    populate(bus, 0)

    async def test(one: Client) -> None:
        assert (await one.managed())[DC_PATH][DISCOVERY]["Fault"] == "its log page was not read yet"
        answer = "tts" + interfaces.LOG_ENTRIES
        assert await refused(one.call(DC_PATH, DISCOVERY, "LogPage", answer=answer)) == interfaces.NO_PAGE

    serve(bus, test)


def test_plan_and_find(bus: Bus) -> None:
    populate(bus, 3)

    async def test(one: Client) -> None:
        decisions = await one.call(ROOT, MANAGER, "Plan", answer="a(sssss)")
        assert (ONE, "keep", "configured in nvme-fabrics.conf:3", "", "configured in nvme-fabrics.conf:3") in decisions
        assert len(decisions) == 4
        for word in (ONE, unit_name(ONE), NQN.format(1)):
            assert await one.call(ROOT, MANAGER, "Find", "s", word, answer="ao") == [ONE_PATH]
        assert await one.call(ROOT, MANAGER, "Find", "s", "nonsense", answer="ao") == []
        assert await one.call(ROOT, MANAGER, "Find", "s", "*vol1", answer="ao") == [ONE_PATH]
        for word in ("*" + "x" * 64, "x" * 513):
            work = one.call(ROOT, MANAGER, "Find", "s", word, answer="ao")
            assert await refused(work) == interfaces.INVALID_ARGUMENTS

    serve(bus, test)


def test_part_of_several_nqns_is_refused_with_their_names(bus: Bus) -> None:
    populate(bus, 3)

    async def test(one: Client) -> None:
        with pytest.raises(RefusedError, match="is a part of 3 NQNs") as caught:
            await one.call(ROOT, MANAGER, "Find", "s", "example", answer="ao")
        assert caught.value.name == interfaces.INVALID_ARGUMENTS
        assert NQN.format(2) in str(caught.value)
        assert await one.call(ROOT, MANAGER, "Find", "s", ONE, answer="ao") == [ONE_PATH]

    serve(bus, test)


def test_introspection_is_the_file_that_is_installed(bus: Bus) -> None:
    populate(bus, 2)
    installed = (PROJECT / "units/dbus/org.nvmexpress.discoverd1.xml").read_text()
    assert installed == interfaces.installed()

    async def test(one: Client) -> None:
        said = {}
        for path in (ROOT, ONE_PATH, DC_PATH, object_path(SUBSYSTEMS, NQN.format(1))):
            text = await one.call(path, INTROSPECTABLE, "Introspect", answer="s")
            for found in re.findall(r" <interface name=.*?</interface>\n", text, re.DOTALL):
                said[re.findall(r'name="(.*?)"', found)[0]] = found
            assert {PEER, INTROSPECTABLE, PROPERTIES} <= set(re.findall(r'<interface name="(.*?)"', text))
        ours = re.findall(r" <interface name=.*?</interface>\n", installed, re.DOTALL)
        assert len(ours) == 4
        assert all(found in said.values() for found in ours)
        assert {name for name in said if name.startswith(NAME)} == set(
            re.findall(r'<interface name="(.*?)"', installed)
        )
        # The tree can be walked from its root, as busctl does.
        path = "/"
        for step in ("org", "nvmexpress", "discoverd1", "controller"):
            assert f'<node name="{step}"/>' in await one.call(path, INTROSPECTABLE, "Introspect", answer="s")
            path = f"{path.rstrip('/')}/{step}"
        text = await one.call(path, INTROSPECTABLE, "Introspect", answer="s")
        assert set(re.findall(r'<node name="(.*?)"/>', text)) == {
            found.rpartition("/")[2] for found in (DC_PATH, ONE_PATH, object_path(CONTROLLERS, instance(0)))
        }

    serve(bus, test)


def test_answers_have_the_signatures_that_introspection_says(bus: Bus) -> None:
    populate(bus, 1)
    page(log_pages.page())
    arguments: dict[str, tuple[Any, ...]] = {
        "Find": ("x",),
        "Exclude": (["nqn=nqn.a:b"],),
        "Unexclude": (["nqn=nqn.a:b"],),
    }

    async def test(one: Client) -> None:
        bus.answers = {"job": "/org/freedesktop/systemd1/job/7", "places": ["exclusions.conf:3"]}
        of = {MANAGER: ROOT, CONTROLLER: DC_PATH, DISCOVERY: DC_PATH}
        for name, path in of.items():
            for method in interfaces.OURS[name].methods:
                given = arguments.get(method.name, ())
                # Raises for another signature.
                await one.call(path, name, method.name, method.signature, *given, answer=method.answer)
            for member, signature in interfaces.OURS[name].properties:
                value = await one.call(path, PROPERTIES, "Get", "ss", name, member, answer="v")
                assert value[0] == signature

    serve(bus, test)


@pytest.mark.parametrize(
    ("path", "interface", "member", "values", "error"),
    [
        ("/org/nvmexpress/discoverd1/controller/x", CONTROLLER, "Stop", (), interfaces.UNKNOWN_OBJECT),
        ("/nowhere", PROPERTIES, "GetAll", ("s", CONTROLLER), interfaces.UNKNOWN_OBJECT),
        (ROOT, "a.b", "C", (), interfaces.UNKNOWN_INTERFACE),
        (ROOT, MANAGER, "C", (), interfaces.UNKNOWN_METHOD),
        (ROOT, CONTROLLER, "Stop", (), interfaces.UNKNOWN_INTERFACE),
        (ONE_PATH, interfaces.OBJECT_MANAGER, "GetManagedObjects", (), interfaces.UNKNOWN_METHOD),
        (ROOT, MANAGER, "Find", (), interfaces.INVALID_ARGUMENTS),
        (ROOT, MANAGER, "Find", ("u", 7), interfaces.INVALID_ARGUMENTS),
        (ROOT, MANAGER, "Exclude", ("as", ["nonsense"]), interfaces.INVALID_ARGUMENTS),
        (ONE_PATH, CONTROLLER, "Stop", ("s", "now"), interfaces.INVALID_ARGUMENTS),
        (ROOT, PROPERTIES, "Get", ("ss", MANAGER, "Secret"), interfaces.UNKNOWN_PROPERTY),
        (ROOT, PROPERTIES, "Get", ("ss", CONTROLLER, "State"), interfaces.UNKNOWN_INTERFACE),
        (ROOT, PROPERTIES, "Set", ("ssv", MANAGER, "State", ("s", "x")), interfaces.READ_ONLY),
    ],
)
def test_what_there_is_not_has_an_error(
    bus: Bus, path: str, interface: str, member: str, values: tuple[Any, ...], error: str
) -> None:
    populate(bus, 2)

    async def test(one: Client) -> None:
        assert await refused(one.call(path, interface, member, *values)) == error

    serve(bus, test)


def test_error_quotes_only_the_beginning_of_what_was_said(bus: Bus) -> None:
    populate(bus, 1)

    async def test(one: Client) -> None:
        for word in ("nqn=" + "\x01" * 8000, "é\x01" * 8000, "nqn." + "x" * 8000):
            with pytest.raises(RefusedError) as caught:
                await one.call(ROOT, MANAGER, "Exclude", "as", [word], answer="as")
            assert caught.value.name == interfaces.INVALID_ARGUMENTS
            assert len(str(caught.value)) < 500
        path = f"{CONTROLLERS}/{'x' * 8000}"
        with pytest.raises(RefusedError) as caught:
            await one.call(path, CONTROLLER, "Stop")
        assert len(str(caught.value)) == TEXT_BYTES_MAX

    serve(bus, test)


def test_actions_are_handed_on_with_their_caller(bus: Bus) -> None:
    populate(bus, 3)
    kernel("nvme4", ONE)
    report(ONE, "live", device="nvme4", **{"kernel-instance": str((bus.folder / "sys/nvme4").stat().st_ino)})

    async def test(one: Client) -> None:
        mine = {"sender": one.connection.name, "interactive": False}
        for member, verb in (
            ("Start", "start"),
            ("Stop", "stop"),
            ("Restart", "restart"),
            ("Disconnect", "disconnect"),
        ):
            assert await one.call(ONE_PATH, CONTROLLER, member, answer="o") == "/org/freedesktop/systemd1/job/7"
            assert bus.asked.pop() == {**mine, "verb": verb, "instance": ONE}
        # Without a device there is nothing to disconnect but what its worker does.
        other = object_path(CONTROLLERS, instance(2))
        await one.call(other, CONTROLLER, "Disconnect", answer="o", flags=wire.INTERACTIVE)
        assert bus.asked.pop() == {**mine, "interactive": True, "verb": "stop", "instance": instance(2)}
        await one.call(ROOT, MANAGER, "Reload", answer="o")
        assert bus.asked.pop() == {**mine, "verb": "reload"}
        bus.answers = {"places": ["/etc/nvme/exclusions.conf:9"]}
        words = [ONE, NQN.format(2), "transport=tcp;traddr=192.0.2.9"]
        places = await one.call(ROOT, MANAGER, "Exclude", "as", words, answer="as")
        assert places == ["/etc/nvme/exclusions.conf:9"]
        assert bus.asked.pop()["entries"] == [
            {"transport": "tcp", "traddr": "192.0.2.2", "trsvcid": "4420", "nqn": NQN.format(1)},
            {"nqn": NQN.format(2)},
            {"transport": "tcp", "traddr": "192.0.2.9"},
        ]
        bus.answers = {"error": interfaces.ACCESS_DENIED, "text": "polkit does not allow this"}
        assert await refused(one.call(ONE_PATH, CONTROLLER, "Stop", answer="o")) == interfaces.ACCESS_DENIED

    serve(bus, test)


def test_controller_that_only_has_a_unit_excludes_no_others(bus: Bus) -> None:
    populate(bus, 1)
    bus.systemd.active[unit_name(instance(9))] = "failed"

    async def test(one: Client) -> None:
        work = one.call(ROOT, MANAGER, "Exclude", "as", [instance(9)], answer="as")
        assert await refused(work) == interfaces.INVALID_ARGUMENTS
        assert bus.asked == []

    serve(bus, test)


def test_controller_without_a_unit_has_none_to_stop(bus: Bus) -> None:
    populate(bus, 1)
    kernel("nvme9", instance(99))

    async def test(one: Client) -> None:
        path = object_path(CONTROLLERS, instance(99))
        shown = (await one.managed())[path][CONTROLLER]
        assert (shown["Unit"], shown["Device"], shown["State"]) == ("", "nvme9", "live")
        assert await refused(one.call(path, CONTROLLER, "Stop", answer="o")) == interfaces.NO_UNIT
        assert bus.asked == []
        await one.call(path, CONTROLLER, "Disconnect", answer="o")
        assert bus.asked.pop()["verb"] == "disconnect"

    serve(bus, test)


def test_one_of_two_controllers_of_one_name_is_not_disconnected_with_the_other(bus: Bus) -> None:
    """They differ in the host's NQN, which is no part of a name."""
    populate(bus, 1)
    for device in ("nvme8", "nvme9"):
        kernel(device, instance(99))

    async def test(one: Client) -> None:
        path = object_path(CONTROLLERS, instance(99))
        for other in (path, f"{path}_20nvme9"):
            with pytest.raises(RefusedError, match=r"discoverctl disconnect nvme[89]"):
                await one.call(other, CONTROLLER, "Disconnect", answer="o")
        assert bus.asked == []

    serve(bus, test)


def test_lost_connection_of_another_tool_is_seen_by_who_asks(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel does not tell, and there is no worker that does."""
    populate(bus, 1)
    kernel("nvme9", instance(99))
    monkeypatch.setattr(devices, "LOOK_SECONDS", 0)
    path = object_path(CONTROLLERS, instance(99))

    async def test(one: Client) -> None:
        assert await one.call(path, PROPERTIES, "Get", "ss", CONTROLLER, "Live", answer="v") == ("b", True)
        await asyncio.to_thread(kernel, "nvme9", instance(99), "connecting")
        assert await one.call(path, PROPERTIES, "Get", "ss", CONTROLLER, "Live", answer="v") == ("b", False)

    serve(bus, test)


def test_change_inside_an_entry_of_the_registry_is_seen(bus: Bus) -> None:
    populate(bus, 1)
    kernel("nvme8", instance(98))
    entry = bus.folder / "registry/nvme8"
    entry.mkdir(parents=True)

    def own(owner: str) -> None:
        (entry / ".owner.tmp").write_text(owner + "\n")
        (entry / ".owner.tmp").rename(entry / "owner")

    async def test(one: Client) -> None:
        for owner in ("stas", "nvme-cli"):
            one.signals.clear()
            await asyncio.to_thread(own, owner)
            await until(lambda: bool(one.heard("PropertiesChanged")))
            assert one.heard("PropertiesChanged")[0].values("sa{sv}as")[1]["Owner"] == ("s", owner)

    serve(bus, test)


def test_long_exclusions_in_any_script_are_handed_on_or_refused_for_their_number(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    populate(bus, 1)

    async def test(one: Client) -> None:
        bus.answers = {"places": []}
        words = ["nqn.2024-08.com.example:" + "é" * 90 + str(number) for number in range(100)]
        await one.call(ROOT, MANAGER, "Exclude", "as", words, answer="as")
        assert bus.asked.pop()["entries"] == [{"nqn": word} for word in words]
        monkeypatch.setattr(actions, "REQUEST_BYTES_MAX", 10_000)
        with pytest.raises(RefusedError, match="give some of them at a time"):
            await one.call(ROOT, MANAGER, "Exclude", "as", words, answer="as")
        assert bus.asked == []

    serve(bus, test)


def test_signals_that_others_than_systemd_send_count_for_nothing(bus: Bus) -> None:
    populate(bus, 1)

    async def test(one: Client) -> None:
        (owner,) = await one.connection.call(BUS, BUS_PATH, BUS, "GetNameOwner", "s", NAME, answer="s")
        before = len(bus.systemd.calls)
        body = wire.marshal("so", unit_name(instance(0)), "/a")
        fields = {wire.PATH: "/a", wire.INTERFACE: "org.freedesktop.systemd1.Manager", wire.MEMBER: "UnitRemoved"}
        one.connection.send(wire.SIGNAL, {**fields, wire.DESTINATION: owner}, "so", body)
        await one.call(ROOT, PEER, "Ping")
        await asyncio.sleep(0.3)
        assert len(bus.systemd.calls) == before
        assert instance(0) in repr(await one.managed())

    serve(bus, test)


def test_supervisor_that_has_never_run_leaves_an_empty_host(bus: Bus) -> None:
    (bus.folder / "discoverd/controllers").rmdir()
    (bus.folder / "discoverd").rmdir()
    del bus.systemd.active["discoverd.service"]

    async def test(one: Client) -> None:
        assert await one.managed() == {}
        manager = await one.call(ROOT, PROPERTIES, "GetAll", "s", MANAGER, answer="a{sv}")
        assert manager["State"] == ("s", "inactive")
        assert "left no plan" in manager["Fault"][1]
        await asyncio.to_thread((bus.folder / "discoverd/controllers").mkdir, parents=True)
        await asyncio.to_thread(populate, bus, 1)
        await until(lambda: len(one.heard("InterfacesAdded")) == 3)

    serve(bus, test)
