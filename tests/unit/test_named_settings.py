# SPDX-License-Identifier: Apache-2.0
"""What a section says about an NQN reaches each path to it: from log pages, referrals, firmware, and since the boot."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest

from discoverd.config.errors import ConfigError
from discoverd.config.fabrics import parse_fabrics
from discoverd.config.identity import HostIdentity
from discoverd.config.model import FabricsConfig
from discoverd.config.settings import Settings
from discoverd.config.sources import SourceFile
from discoverd.plan.candidate import BOOT, MDNS, NBFT, Candidate, Wish, granted
from discoverd.plan.evidence import Asked
from discoverd.plan.log_page import PageRead, parse
from discoverd.sources.discovery_log import Listing, Parent, candidates
from discoverd.state import Spec
from discoverd.supervisor.inventory import Inventory
from discoverd.tid import DISCOVERY, DISCOVERY_NQN, IO, TransportId

from .dhchap_secrets import secret
from .log_pages import entry, page

NQN, OTHER_NQN = "nqn.2024-08.com.example:vol1", "nqn.2024-08.com.example:vol2"
DC_NQN = "nqn.2024-08.com.example:dc"
HOST = HostIdentity("nqn.2024-08.com.example:host", "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0")
PERSONA, PERSONA_ID = "nqn.2024-08.com.example:other", "11111111-2222-3333-4444-555555555555"
KEY, KEY2 = secret("one"), secret("two")
DC = "[Discovery Controller]\ncontroller = transport=tcp;traddr=192.0.2.1\n"
PARENT = TransportId.make(DISCOVERY, "tcp", "192.0.2.1", "", DISCOVERY_NQN)
# One subsystem on two ports.
PAGE = page(entry(NQN), entry(NQN, "192.0.2.2"), entry(OTHER_NQN))


def section(key: str = KEY, more: str = "") -> str:
    return f"[Subsystem]\nnqn = {NQN}\nkxchap-secret = {key}\n{more}"


def config(*texts: str) -> FabricsConfig:
    files = [SourceFile(f"f{number}", text.encode(), drop_in=number > 0) for number, text in enumerate(texts)]
    return parse_fabrics(files)


def listed(given: FabricsConfig, data: bytes = PAGE, host: HostIdentity = HOST) -> Listing:
    via = given.connections[0]
    about = Parent(
        PARENT, PARENT.instance, given.discovered(via, "io"), given.discovered(via, "discovery"), 0, 0.0, trusted=True
    )
    return candidates(parse(data), about, host)


def keys(found: tuple[Candidate, ...]) -> dict[str, str]:
    return {f"{one.tid.traddr} {one.tid.subsysnqn[-4:]}": dict(one.options).get("dhchap_secret", "") for one in found}


@pytest.mark.parametrize("path", ["", "controller = transport=tcp;traddr=192.0.2.2\n"])
def test_each_listed_path_has_the_key(path: str) -> None:
    found = listed(config(DC + section(more=path)))
    assert keys(found.candidates) == {"192.0.2.1 vol1": KEY, "192.0.2.2 vol1": KEY, "192.0.2.1 vol2": ""}
    assert (found.refusals, found.inconclusive) == ((), "")


def test_changed_section_is_another_specification() -> None:
    one, two = (
        Spec(IO, list(listed(config(DC + section(key, more))).candidates[0].options))
        for key, more in ((KEY, ""), (KEY2, "ctrl-loss-tmo = 5\n"))
    )
    assert not one.asks_the_same(two)
    assert two.option("ctrl_loss_tmo") == "5"


def test_section_that_cannot_be_used_costs_its_own_entries_only() -> None:
    """Never in the clear where TLS is asked for; and nothing follows from what the page lacks of that name."""
    found = listed(config(DC + section(more="tls = true\n")))
    assert keys(found.candidates) == {"192.0.2.1 vol2": ""}
    assert [one.what.split(",")[0] for one in found.refusals] == ["entry 0", "entry 1"]
    assert all("TLS is not supported" in one.reason and "f0:3" in one.reason for one in found.refusals)
    assert (found.inconclusive, set(found.possible_nqns)) == ("", {NQN})


def test_section_mends_what_the_defaults_cannot_do() -> None:
    text = "[I/O Controller Defaults]\ntls = true\n" + DC + section(more="tls = false\n")
    found = listed(config(text))
    assert keys(found.candidates) == {"192.0.2.1 vol1": KEY, "192.0.2.2 vol1": KEY}
    assert found.inconclusive == "not all of its log page can be used"


def test_persona_gets_its_own_section_and_stays_the_same_unit() -> None:
    persona = f"[Host]\nhostnqn = {PERSONA}\nhostid = {PERSONA_ID}\n"
    found = listed(config("", persona + DC + section(KEY2), section(KEY)))
    assert {one.tid.hostnqn for one in found.candidates} == {PERSONA}
    assert keys(found.candidates)["192.0.2.2 vol1"] == KEY2
    # What is said for one persona is nothing to another.
    found = listed(config(DC, persona + DC + section(KEY2)))
    assert {one.tid.hostnqn for one in found.candidates} == {""}
    assert set(keys(found.candidates).values()) == {""}


def test_referral_by_a_name_of_its_own_has_the_settings_of_its_section() -> None:
    text = f"[Discovery Controller]\nnqn = {DC_NQN}\nkxchap-secret = {KEY}\npersistent = no\n"
    data = page(
        entry(NQN), entry(DC_NQN, "192.0.2.3", "8009", subtype=1), entry(DISCOVERY_NQN, "192.0.2.4", "8009", subtype=1)
    )
    _, named, unnamed = listed(config(DC + text), data).candidates
    assert (dict(named.options)["dhchap_secret"], named.persistent) == (KEY, "no")
    assert ("dhchap_secret" in dict(unnamed.options), unnamed.persistent) == (False, "auto")


def test_firmwares_wish_has_the_key_of_its_host_nqn() -> None:
    persona = f"[Host]\nhostnqn = {PERSONA}\nhostid = {PERSONA_ID}\n" + section(KEY2)
    given = config(section(), persona)
    for hostnqn, key in (("", KEY), (PERSONA, KEY2)):
        tid = TransportId.make(IO, "tcp", "192.0.2.1", "", NQN, hostnqn=hostnqn)
        wish = Wish(tid, IO, "in NBFT", NBFT, (("hdr-digest", "true"),))
        one = granted(wish, given.discovered(None, "io"), HOST, {PERSONA: PERSONA_ID})
        assert dict(one.options)["dhchap_secret"] == key
        assert dict(one.options)["hdr_digest"] == ""
    with pytest.raises(ConfigError, match=r"TLS is not supported.*f0:1"):
        granted(wish, config(section(more="tls = true\n")).discovered(None, "io"), replace(HOST, hostnqn=PERSONA), {})


def existing(**options: str) -> Candidate:
    tid = TransportId.make(IO, "tcp", "192.0.2.1", "", NQN)
    given: Mapping[str, str] = {"nqn": NQN, "transport": "tcp", "traddr": "192.0.2.1", **options}
    return Candidate(tid, IO, "nvme0 since the boot", BOOT, tuple(given.items()))


def in_inventory(found: Candidate, *configs: FabricsConfig) -> list[tuple[dict[str, str], str]]:
    """Return the options and the refusals of a candidate of the boot with one configuration after the other."""

    async def main() -> list[tuple[dict[str, str], str]]:
        inventory = Inventory({}, lambda: None)
        inventory.booted((found,))
        seen = []
        for given in configs:
            inventory.configure(given, HOST, Settings(mdns=False, nbft=False, fibre_channel=False))
            await inventory.update()
            (one,) = inventory.wanted.asked[found.tid.instance]
            seen.append((dict(one.options), " ".join(refusal.reason for refusal in inventory.refusals)))
        await inventory.names.close()
        return seen

    return asyncio.run(main())


def test_connection_of_the_boot_is_made_again_with_the_key() -> None:
    before = existing(dhchap_secret=KEY, dhchap_ctrl_secret=KEY)
    (unsaid, _), (keyed, _), (reset, _), (other, refused) = in_inventory(
        before,
        config(),
        config(section(KEY2, "ctrl-loss-tmo = 5\n")),
        config(section("", "kxchap-ctrl-secret =\n")),
        config(section(KEY2, "tls = true\n")),
    )
    assert unsaid == dict(before.options)
    assert keyed == {**unsaid, "dhchap_secret": KEY2, "ctrl_loss_tmo": "5"}
    assert reset == {name: value for name, value in unsaid.items() if "dhchap" not in name}
    # It carries the system, perhaps: it goes on as it was, and somebody is told.
    assert other == unsaid
    assert "connected as it was" in refused
    assert "TLS is not supported" in refused


def test_what_only_an_announcement_leads_to_gets_no_key() -> None:
    """Neither the discovery controller, by whatever name it calls itself, nor what it lists."""

    async def main() -> dict[str, dict[str, str]]:
        inventory = Inventory({}, lambda: None)
        text = (
            f"[Host]\nkxchap-secret = {KEY}\n[Discovery Controller]\nnqn = {DC_NQN}\nkxchap-secret = {KEY}\ntos = 1\n"
        )
        given = config(text + section(more="tos = 1\n") + f"[Subsystem]\nnqn = {OTHER_NQN}\ntls-key = 1234\n")
        inventory.configure(given, HOST, Settings(nbft=False, fibre_channel=False))
        tid = TransportId.make(DISCOVERY, "tcp", "192.0.2.9", "", DC_NQN)
        inventory.mdns.wishes = (Wish(tid, DISCOVERY, "announced", MDNS),)
        inventory.put_page(tid.instance, PageRead(parse(PAGE), 0.0, "1", Asked.ALL_PORTS))
        await inventory.update()
        await inventory.names.close()
        return {instance: dict(asked[0].options) for instance, asked in inventory.wanted.asked.items()}

    found = asyncio.run(main())
    assert not any("dhchap_secret" in options for options in found.values())
    # What is no secret is not withheld, and what is not to be connected in the clear is not, for want of a key.
    assert {dict(options)["nqn"] for options in found.values()} == {DC_NQN, NQN}
    assert {options["tos"] for options in found.values()} == {"1"}
