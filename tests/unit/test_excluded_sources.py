# SPDX-License-Identifier: Apache-2.0
"""An exclusion holds whichever source asks."""

from pathlib import Path
from typing import Any

import pytest

from discoverd.config.fabrics import load_fabrics
from discoverd.config.identity import HostIdentity
from discoverd.config.model import FabricsConfig
from discoverd.config.settings import Settings
from discoverd.exclusions import parse
from discoverd.plan.candidate import FIBRE_CHANNEL, MDNS, NBFT, Wish
from discoverd.supervisor.inventory import Inventory
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, IO, TransportId

from . import virtual_time

NQN = "nqn.2024-08.com.example:vol1"
HOSTNQN = "nqn.2014-08.org.nvmexpress:uuid:4c4c4544-0042-3510-8052-b4c04f4a3732"
FC = ("fc", "nn-0x20000000c9a0b0c1:pn-0x10000000c9a0b0c1", "")
TCP = ("tcp", "192.0.2.1", "8009")
CONFIGURATION = f"[Subsystem]\nnqn = {NQN}\ncontroller = transport=tcp;traddr=192.0.2.9\n"


@pytest.fixture
def config(tmp_path: Path) -> FabricsConfig:
    (tmp_path / "nvme-fabrics.conf").write_text(CONFIGURATION)
    return load_fabrics(tmp_path / "nvme-fabrics.conf")


def make(config: FabricsConfig) -> Inventory:
    made = Inventory({}, lambda: None)
    made.configure(config, HostIdentity(HOSTNQN, HOSTNQN[-36:]), Settings())
    return made


def exclude(inventory: Inventory, *entries: str) -> None:
    lines = "".join(f"exclusion = {entry}\n" for entry in entries)
    inventory.exclusions.exclusions = found = parse([("list", f"[exclusions]\n{lines}".encode())])
    assert found.problems == []


@pytest.mark.parametrize(
    ("origin", "where", "role", "excluding"),
    [
        (NBFT, TCP, IO, f"nqn={NQN}"),
        (MDNS, TCP, DISCOVERY, "transport=tcp;trsvcid=8009"),
        (FIBRE_CHANNEL, FC, DISCOVERY, "transport=fc;traddr=nn-0x20000000C9A0B0C1,pn-0x10000000C9A0B0C1"),
    ],
)
def test_announced_controller_is_excluded(
    config: FabricsConfig, origin: str, where: tuple[str, str, str], role: str, excluding: str
) -> None:
    tid = TransportId.make(role, *where, NQN if role == IO else DISCOVERY_NQN)

    async def story() -> None:
        inventory = make(config)
        source: Any = {NBFT: inventory.nbft, MDNS: inventory.mdns, FIBRE_CHANNEL: inventory.fibre_channel}[origin]
        source.wishes = (Wish(tid, role, "announced", origin),)
        for entries, excluded in (((excluding,), True), ((f"hostnqn={HOSTNQN}",), True), ((), False)):
            exclude(inventory, *entries)
            await inventory.update()
            assert tid.instance in inventory.wanted.asked
            assert (tid.instance in inventory.excluded) == excluded

    virtual_time.run(story())


def test_configured_controller_is_excluded(config: FabricsConfig) -> None:
    async def story() -> None:
        inventory = make(config)
        await inventory.update()
        (instance,) = inventory.wanted.asked
        exclude(inventory, "traddr=::ffff:192.0.2.9;trsvcid=4420")
        assert list(await inventory.update()) == [instance]
        assert inventory.excluded == {instance: "list:2"}
        # Nothing is looked at again where nothing changes.
        exclude(inventory, "traddr=::ffff:192.0.2.9;trsvcid=4420", "nqn=nqn.other")
        assert list(await inventory.update()) == []
        exclude(inventory)
        assert list(await inventory.update()) == [instance]
        assert inventory.excluded == {}

    virtual_time.run(story())
