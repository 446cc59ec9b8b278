# SPDX-License-Identifier: Apache-2.0
"""What the words on discoverctl's command line mean."""

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discoverd.cli import place
from discoverd.cli.choose import choose, is_part, matches
from discoverd.cli.exits import CliError, Exit
from discoverd.cli.overview import Controller, Overview
from discoverd.cli.plan_file import PlanFile, Planned
from discoverd.tid import DISCOVERY, IO, TransportId, unit_name

from .strategies import fc_addresses, ipv4, ipv6

NQN = "nqn.2024-08.com.example:{}"
HOSTILE = "nqn.2024-08.com.example:[a-z]*?"


def controller(name: str, address: str = "192.0.2.1", port: str = "", transport: str = "tcp") -> Controller:
    tid = TransportId.make(IO, transport, address, port, name if name.startswith("nqn.") else NQN.format(name))
    parts = {part: getattr(tid, part) for part in ("transport", "traddr", "trsvcid", "subsysnqn")}
    return Controller(tid.instance, planned=Planned(tid.instance, "keep", "configured", role=DISCOVERY, **parts))


ONE = controller("vol1")
OTHER = controller("vol1", "198.51.100.1")
TEN = controller("vol10", port="4421")
SIX = controller("six", "2001:db8::1")
LOCAL = controller("local", "fe80::1%eth0")
FC = controller("fc", "nn-0x10:pn-0x20", transport="fc")
UUID = controller("nqn.2014-08.org.nvmexpress:uuid:01234567-89ab-cdef-0123-456789abcdef")
ODD = controller(HOSTILE)
ALL = [ONE, OTHER, TEN, SIX, LOCAL, FC, UUID, ODD]


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this host's."""
    monkeypatch.setattr(place, "devices", lambda _: set())


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        (ONE.name, [ONE]),
        (ONE.unit_name, [ONE]),
        (unit_name(ONE.name).removesuffix(".service"), [ONE]),
        (NQN.format("vol1"), [ONE, OTHER]),
        ("nqn.2014-08.org.nvmexpress:uuid:01234567-89AB-CDEF-0123-456789ABCDEF", [UUID]),
        ("198.51.100.1", [OTHER]),
        ("192.0.2.1:4421", [TEN]),
        ("192.0.2.1:4420", [ONE, UUID, ODD]),
        ("192.0.2.1:1", []),
        ("2001:db8::1", [SIX]),
        ("[2001:0db8::1]:4420", [SIX]),
        ("[2001:db8::1]:4421", []),
        ("fe80::1", [LOCAL]),
        ("fe80::1%eth0", [LOCAL]),
        ("fe80::1%eth1", []),
        ("NN-0x10:PN-0x20", [FC]),
        (f"nn-0x{16:016x}:pn-0x{32:016x}", [FC]),
        ("*:vol1", [ONE, OTHER]),
        ("*:vol1*", [ONE, OTHER, TEN]),
        ("nqn.*:vol1", [ONE, OTHER]),
        ("198.51.100.*", [OTHER]),
        ("192.0.2.1:442[1-9]", [TEN]),
        ("nvme-ctrl@*:vol1.service", [ONE, OTHER]),
        ("vol1", [ONE, OTHER]),
        ("vol10", [TEN]),
        ("example:vol10", [TEN]),
        ("ol10", []),
        ("vol", []),
        ("uuid", [UUID]),
        ("01234567-89ab-cdef-0123-456789abcdef", [UUID]),
        ("456789abcdef", []),
        (HOSTILE, [ODD]),
        ("", []),
        ("si", []),
        ("volume", []),
        ("*volume*", []),
        ("[", []),
        ("]:4420", []),
        ("transport=tcp;traddr=192.0.2.1", []),
    ],
)
def test_words(word: str, meant: Sequence[Controller]) -> None:
    assert matches(word, ALL) == meant


def test_words_mean_each_controller_once() -> None:
    assert choose(["vol1", "198.51.100.1", "*:six"], overview(ALL)) == [ONE, OTHER, SIX]


def test_what_lies_on_a_namespace_means_its_controllers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "devices", lambda word: {"nvme7"} if word == "/data" else set())
    with pytest.raises(CliError, match="/data is on nvme7, which no network leads to") as raised:
        choose(["/data"], overview(ALL))
    assert raised.value.exit_status == Exit.UNKNOWN


components = st.lists(st.text(alphabet="ab1-", min_size=1, max_size=4), min_size=1, max_size=5)


@given(components, st.data())
def test_a_part_of_an_nqn_is_made_of_whole_components(parts: list[str], data: st.DataObject) -> None:
    separators = data.draw(st.lists(st.sampled_from(":."), min_size=len(parts), max_size=len(parts)))
    pieces = ["nqn", *(piece for pair in zip(separators, parts, strict=True) for piece in pair)]
    nqn = "".join(pieces)
    first = data.draw(st.integers(0, len(pieces) - 1))
    last = data.draw(st.integers(first, len(pieces) - 1))
    word = "".join(pieces[first : last + 1])
    whole = first % 2 == 0 and last % 2 == 0
    if len(word) >= 3 and not (word.startswith("nqn.") and ":" in word):
        assert is_part(word, nqn) == whole
    # Whatever is cut out of it, its neighbours are separators or the ends.
    start = data.draw(st.integers(0, len(nqn) - 1))
    cut = nqn[start : data.draw(st.integers(start + 1, len(nqn)))]
    if is_part(cut, nqn):
        assert re.search(rf"(^|[:.]){re.escape(cut)}($|[:.])", nqn)


@given(
    st.from_regex(r"(nvme[0-9]+(c[0-9]+)?(n[0-9]+(p[0-9]+)?)?|ng[0-9]+n[0-9]+|dm-[0-9]+)", fullmatch=True)
    | ipv4
    | ipv4.map("{}:4420".format)
    | ipv6
    | ipv6.map("[{}]:4420".format)
    | fc_addresses
    | st.text(alphabet="abc/-", min_size=2).map("/{}".format)
    | st.just(NQN.format("vol1"))
    | st.just(unit_name(ONE.name))
    | st.just("192.0.2.300")
)
def test_what_has_the_form_of_another_name_is_no_part_of_an_nqn(word: str) -> None:
    assert matches(word, [controller(f"{NQN.format('of')}:{word}:backup", "203.0.113.200")]) == []
    assert not is_part(word, f"{word}:backup")


@pytest.mark.parametrize(
    "word", ["nvme3", "nvme3n1", "198.51.100.7", "198.51.100.7:4420", "/srv", "vol1", "2001:db8::7"]
)
def test_nothing_stands_in_for_what_is_gone(word: str) -> None:
    others = [f"backup-{word}1", f"{word}0", f"old-{word}", f"x{word}"]
    assert matches(word, [controller(other) for other in others]) == []


@pytest.mark.parametrize("word", ["example", "com.example"])
def test_part_of_several_nqns_is_none_to_go_by(word: str) -> None:
    with pytest.raises(CliError, match="is a part of") as raised:
        choose([word], overview(ALL))
    assert raised.value.exit_status == Exit.USAGE
    assert NQN.format("vol1") in raised.value.lines
    assert len(raised.value.lines) <= 6


def test_nearest_names_are_in_lines_of_their_own() -> None:
    with pytest.raises(CliError, match="no controller vol2; ") as raised:
        choose(["vol2"], overview(ALL))
    assert raised.value.lines[0] == NQN.format("vol1")
    with pytest.raises(CliError) as raised:
        choose(["192.0.2.2:4420"], overview(ALL))
    assert "192.0.2.1:4420" in raised.value.lines


def overview(controllers: list[Controller]) -> Overview:
    return Overview(tuple(controllers), PlanFile())
