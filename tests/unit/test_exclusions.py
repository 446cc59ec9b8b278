# SPDX-License-Identifier: Apache-2.0
"""What exclusion lists exclude, and what is said about lines that exclude nothing."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discoverd.exclusions import KEYS, MAX_PROBLEMS, MAX_SIZE, Exclusions, load, parse, scan, understand

NQN = "nqn.2024-08.com.example:vol1"
UUID = "4c4c4544-0042-3510-8052-b4c04f4a3732"
HOSTNQN = f"nqn.2014-08.org.nvmexpress:uuid:{UUID}"
TCP = {
    "nqn": NQN,
    "transport": "tcp",
    "traddr": "192.0.2.1",
    "trsvcid": "4420",
    "host_traddr": "192.0.2.100",
    "host_iface": "eth0",
    "hostnqn": HOSTNQN,
    "hostid": UUID,
}
BARE = {"nqn": NQN, "transport": "tcp", "traddr": "192.0.2.1", "trsvcid": "4420"}
SIX = BARE | {"traddr": "fe80::1%eth0"}
FC = {
    "nqn": NQN,
    "transport": "fc",
    "traddr": "nn-0x20000000c9a0b0c1:pn-0x10000000c9a0b0c1",
    "host_traddr": "nn-0x0000000000000001:pn-0x0000000000000002",
}
LOOP = {"nqn": NQN, "transport": "loop"}
MAIN = "/etc/nvme/exclusions.conf"


def one(text: str) -> Exclusions:
    return parse([(MAIN, b"[exclusions]\nexclusion = " + text.encode("utf-8", "surrogateescape") + b"\n")])


@pytest.mark.parametrize(
    ("entry", "options"),
    [
        pytest.param(f"nqn={NQN}", TCP, id="nqn"),
        pytest.param("transport=tcp", TCP, id="transport"),
        pytest.param("traddr=192.0.2.1", TCP, id="address"),
        pytest.param("trsvcid=4420", TCP, id="port"),
        pytest.param("host-traddr=192.0.2.100", TCP, id="host address"),
        pytest.param("host-iface=eth0", TCP, id="host interface"),
        pytest.param(f"hostnqn={HOSTNQN}", TCP, id="host nqn"),
        pytest.param(f"hostid={UUID}", TCP, id="host id"),
        pytest.param(f"hostid={UUID.upper()}", TCP, id="host id in upper case"),
        pytest.param(f"hostnqn={HOSTNQN.replace(UUID, UUID.upper())}", TCP, id="host nqn with a uuid in upper case"),
        pytest.param(f"nqn={HOSTNQN.replace(UUID, UUID.upper())}", {**TCP, "nqn": HOSTNQN}, id="nqn with a uuid"),
        pytest.param(
            f"transport=tcp;traddr=192.0.2.1;trsvcid=4420;nqn={NQN};host-iface=eth0", TCP, id="what stas adds"
        ),
        pytest.param(f" transport = tcp ; ; nqn = {NQN} ;", TCP, id="spaces and empty tokens"),
        pytest.param("transport=rdma;transport=tcp", TCP, id="the last of a key counts"),
        pytest.param("transport=tcp;traddr=::ffff:192.0.2.1", TCP, id="mapped address for an ipv4 one"),
        pytest.param("traddr=192.0.2.1", BARE | {"traddr": "::ffff:192.0.2.1"}, id="ipv4 address for a mapped one"),
        pytest.param("traddr=::FFFF:C000:201", TCP, id="mapped address in hexadecimal"),
        pytest.param("traddr=FE80:0:0:0:0:0:0:1", SIX, id="expanded address, no zone"),
        pytest.param("traddr=fe80::1%eth1", SIX, id="the zone does not count"),
        pytest.param(
            "transport=rdma;traddr=2001:db8::1", BARE | {"transport": "rdma", "traddr": "2001:db8::1"}, id="rdma"
        ),
        pytest.param(
            "transport=fc;" + "traddr=nn-0x20000000C9A0B0C1:pn-0x10000000C9A0B0C1", FC, id="wwns in upper case"
        ),
        pytest.param("transport=fc;traddr=nn-0x20000000c9a0b0c1,pn-0x10000000c9a0b0c1", FC, id="wwns with a comma"),
        pytest.param("transport=fc;host-traddr=nn-0x1:pn-0x2", FC, id="wwns without leading zeros"),
        pytest.param("host-traddr=NN-0X1:PN-0X2", FC, id="wwns of any spelling without a transport"),
        pytest.param("transport=loop", LOOP, id="loop"),
        pytest.param(f"nqn={NQN}", LOOP, id="nqn of a loop controller"),
        pytest.param("traddr=array1", LOOP | {"traddr": "array1"}, id="an address as text"),
        pytest.param("nqn=nqn.2024-08.com.example:a=b", TCP | {"nqn": "nqn.2024-08.com.example:a=b"}, id="equals sign"),
        pytest.param("nqn=nqn.2024-08.com.example:é", TCP | {"nqn": "nqn.2024-08.com.example:é"}, id="utf-8"),
        pytest.param("nqn=nqn.2024-08.com.example:#1", TCP | {"nqn": "nqn.2024-08.com.example:#1"}, id="number sign"),
    ],
)
def test_excluded(entry: str, options: dict[str, str]) -> None:
    assert one(entry).match(options) == f"{MAIN}:2"


@pytest.mark.parametrize(
    ("entry", "options"),
    [
        pytest.param(f"nqn={NQN}2", TCP, id="another nqn"),
        pytest.param(f"nqn={NQN.upper()}", TCP, id="nqn in upper case"),
        pytest.param(f"nqn={NQN[:-1]}*", TCP, id="no patterns"),
        pytest.param("traddr=192.0.2.0/24", TCP, id="no networks"),
        pytest.param("transport=TCP", TCP, id="transport in upper case"),
        pytest.param("trsvcid=04420", TCP, id="port with a zero"),
        pytest.param("trsvcid=8009", TCP, id="another port"),
        pytest.param("traddr=192.0.2.10", TCP, id="another address"),
        pytest.param("traddr=array1", TCP, id="a name"),
        pytest.param("host-iface=eth0", BARE, id="interface that is not asked for"),
        pytest.param("host-traddr=192.0.2.100", BARE, id="host address that is not asked for"),
        pytest.param(f"hostid={UUID}", BARE, id="host id that is not known"),
        pytest.param("host-iface=eth0", TCP | {"host_iface": ""}, id="empty is not given"),
        pytest.param("traddr=192.0.2.1;trsvcid=8009", TCP, id="one field of two"),
        pytest.param("host-iface=Eth0", TCP, id="interface in upper case"),
        pytest.param("traddr=nn-0x20000000c9a0b0c1,pn-0x10000000c9a0b0c1", FC, id="comma, and no transport"),
        pytest.param("transport=fc;traddr=nn-0x1:pn-0x3", FC, id="another wwn"),
        pytest.param("traddr=192.0.2.1", LOOP, id="loop has no address"),
        pytest.param(f"nqn={NQN} # until Monday", TCP, id="comment behind it"),
        # Malformed from here on.
        pytest.param("", TCP, id="empty"),
        pytest.param(";;", TCP, id="nothing but semicolons"),
        pytest.param("tcp", TCP, id="bare word"),
        pytest.param(f"subsysnqn={NQN}", TCP, id="unknown key"),
        pytest.param("transport=tcp;host_iface=eth0", TCP, id="key with an underscore"),
        pytest.param("NQN=" + NQN, TCP, id="key in upper case"),
        pytest.param("transport=", TCP, id="no value"),
        pytest.param(f"nqn={NQN};transport=", TCP, id="no value beside a good field"),
        pytest.param("transport=;transport=tcp", TCP, id="no value, then one"),
        pytest.param("transport=tcp;traddr=array1", TCP | {"traddr": "array1"}, id="name for an address"),
        pytest.param("transport=rdma;host-traddr=eth0", TCP | {"transport": "rdma"}, id="name for a host address"),
        pytest.param("transport=tcp;traddr=192.0.2.1:4420", TCP, id="address with a port"),
        pytest.param("transport=fc;traddr=192.0.2.1", FC, id="ip address for fc"),
        pytest.param("transport=fc;traddr=NN-0X1:PN-0X2", FC, id="fc prefix in upper case"),
        pytest.param("transport=fc;traddr=nn-0x1:pn-0x00000000000000002", FC, id="wwn too long"),
        pytest.param("transport=fc;traddr=nn-0x:pn-0x2", FC, id="wwn without digits"),
        pytest.param("transport=fc;traddr=nn-0x1_0:pn-0x2", FC, id="wwn that python would read"),
        pytest.param("nqn=nqn.a\x00b", {"nqn": "nqn.a"}, id="nul"),
        pytest.param("nqn=nqn.a\udcff", {"nqn": "nqn.a\udcff"}, id="no utf-8"),
    ],
)
def test_not_excluded(entry: str, options: dict[str, str]) -> None:
    assert one(entry).match(options) == ""


@pytest.mark.parametrize(
    ("entry", "counts", "sentence"),
    [
        ("", False, "it has no field, and would exclude nothing; write KEY=VALUE, separated by semicolons"),
        ("tcp", False, "'tcp' has no '='; write KEY=VALUE, separated by semicolons"),
        (f"subsysnqn={NQN}", False, "'subsysnqn' is no key of an exclusion; did you mean nqn?"),
        ("host_iface=eth0", False, "'host_iface' is no key of an exclusion; did you mean host-iface?"),
        ("port=1", False, f"'port' is no key of an exclusion; use {', '.join(KEYS)}"),
        ("nqn=", False, "nqn has no value; give one, or leave the key out to match any"),
        ("nqn=a\x1b", False, "the value of nqn has a character that cannot be printed; write it again"),
        (
            "transport=tcp;traddr=a",
            False,
            "traddr=a is no IP address; names are not looked up, so give the address",
        ),
        (
            "transport=fc;host-traddr=a",
            False,
            "host-traddr=a is no Fibre Channel address; write nn-0x…:pn-0x…",
        ),
        ("nqn=nqn.a # b", True, "'# b' is part of nqn; put the comment on a line of its own"),
        ("transport=TCP", True, "transport=TCP matches nothing; write one of tcp, rdma, fc, loop"),
        ('nqn="nqn.a"', True, 'nqn="nqn.a" matches nothing; an NQN begins with nqn., and has no quotation marks'),
        ("trsvcid=04420", True, "trsvcid=04420 matches nothing; give the port as a number without leading zeros"),
        ("traddr=a", True, "traddr=a is no numeric address and matches nothing; give the address"),
        (f"nqn={NQN}", True, ""),
        ("transport=loop;traddr=a", True, ""),
        ("traddr=fe80::1", True, ""),
        ("host-traddr=nn-0x1:pn-0x2", True, ""),
    ],
)
def test_faulty_entry_is_a_problem_in_words(entry: str, counts: bool, sentence: str) -> None:
    fields, said = understand(entry)
    assert (bool(fields), said) == (counts, sentence)
    found = one(entry)
    assert len(found.entries) == counts
    assert found.problems == ([(MAIN, 2, sentence)] if sentence else [])


@pytest.mark.parametrize(
    ("content", "lines", "faults"),
    [
        pytest.param("[exclusions]\nexclusion=nqn=nqn.a\n", [2], [], id="plain"),
        pytest.param("\ufeff[exclusions]\nexclusion=nqn=nqn.a\n", [2], [], id="byte order mark"),
        pytest.param("[exclusions]\r\n\r\n  exclusion  =  nqn=nqn.a  \r\n", [3], [], id="crlf and spaces"),
        pytest.param("[ exclusions ] # and more\n\v exclusion=nqn=nqn.a", [2], [], id="text behind the header"),
        pytest.param("# c\n\n[exclusions]\n#exclusion=nqn=nqn.a\n", [], [], id="comments"),
        pytest.param("exclusion=nqn=nqn.a\n", [], [1], id="no header"),
        pytest.param("[Exclusions]\nexclusion=nqn=nqn.a\n", [], [2], id="header in upper case"),
        pytest.param("[a]b]\n[exclusions]\n[a]\nexclusion=nqn=nqn.a\n", [], [4], id="another section"),
        pytest.param("[exclusions]\n[a]\nx=y\n[exclusions]\nexclusion=nqn=nqn.a\n", [5], [], id="opened again"),
        pytest.param("[exclusions]\n[a\nexclusion=nqn=nqn.a\n", [], [2, 3], id="header without an end"),
        pytest.param("[exclusions]\n; exclusion=nqn=nqn.a\n", [], [2], id="no semicolon comments"),
        pytest.param("[exclusions]\nExclusion=nqn=nqn.a\n", [], [2], id="key in upper case"),
        pytest.param("[exclusions]\nexclusion nqn=nqn.a\n", [], [2], id="no equals sign"),
        pytest.param("[a]\nnonsense\nx=y\n", [], [], id="other sections are others'"),
        pytest.param("#" + "x" * 4093 + "[exclusions]\nexclusion=nqn=nqn.a\n", [], [2], id="long lines are one line"),
        pytest.param("[exclusions]\nexclusion=nqn=nqn." + "a" * 9000 + "\n", [2], [], id="long entry"),
        pytest.param("[exclusions]\nexclusion=nqn\nexclusion=nqn=nqn.a\n", [3], [2], id="a fault harms no other line"),
    ],
)
def test_lines(content: str, lines: list[int], faults: list[int]) -> None:
    found = parse([(MAIN, content.encode())])
    assert [entry.line for entry in found.entries] == lines
    assert [line for _, line, _ in found.problems] == faults


def test_the_first_that_matches_is_named() -> None:
    lists = [
        ("a", b"[exclusions]\nexclusion=nqn=nqn.other\nexclusion=transport=tcp\nexclusion=transport=tcp\n"),
        ("b", b"[exclusions]\nexclusion=traddr=192.0.2.1\nexclusion=transport=fc\n"),
    ]
    assert parse(lists).match(TCP) == "a:3"
    assert parse(lists[::-1]).match(TCP) == "b:2"
    assert parse(lists).match(FC) == "b:3"


def test_equal_if_nothing_changed() -> None:
    data = b"[exclusions]\nexclusion=nqn=nqn.a\nexclusion=x\n"
    assert parse([("a", data)]) == parse([("a", data + b"# c\n")])
    assert parse([("a", data)]) != parse([("b", data)])
    assert parse([("a", data)]) != parse([("a", data.replace(b"nqn.a", b"nqn.b"))])
    assert parse([("a", data)]) != parse([("a", data + b"exclusion=y\n")])
    assert parse([]) != []


def test_a_file_of_garbage_has_bounded_problems() -> None:
    found = parse([("a", b"[exclusions]\n" + b"garbage\n" * 5000)])
    assert len(found.problems) == MAX_PROBLEMS + 1
    assert found.problems[-1] == ("a", MAX_PROBLEMS + 2, "and 4900 more from here on; mend these first")


def test_ten_thousand_entries_are_looked_up_as_quickly_as_one() -> None:
    lines = "".join(f"exclusion=transport=tcp;nqn=nqn.2024-08.com.example:v{n}\n" for n in range(10000))
    found = parse([("a", f"[exclusions]\n{lines}".encode())])
    assert len(found._index) == 1
    assert found.match(TCP | {"nqn": "nqn.2024-08.com.example:v9999"}) == "a:10001"


def put(path: Path, nqn: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"[exclusions]\nexclusion = nqn={nqn}\n")


def test_which_files_are_lists(tmp_path: Path) -> None:
    for number, name in enumerate(
        [
            "exclusions.conf",
            "exclusions.conf.d/.hidden.conf",
            "exclusions.conf.d/b.conf",
            "exclusions.conf.d/x y.conf",
            "exclusions/draft",
            "exclusions/draft.list",
        ]
    ):
        put(tmp_path / name, f"nqn.{number}")
    for name in (
        "exclusions.conf.d/.conf",
        "exclusions.conf.d/b.conf~",
        "exclusions.conf.d/c.CONF",
        "exclusions.conf.d/readme",
        "exclusions/draft~",
        "exclusions/.draft.swp",
        "exclusions/below/list",
        "other.conf",
    ):
        put(tmp_path / name, "nqn.not")
    found = load(str(tmp_path))
    assert found.problems == []
    assert [entry.fields["nqn"] for entry in found.entries] == [f"nqn.{number}" for number in range(6)]
    assert found.match({"nqn": "nqn.3"}) == f"{tmp_path}/exclusions.conf.d/x y.conf:2"


def test_nothing_there_excludes_nothing(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "none"):
        assert load(str(root)) == Exclusions([], [])
    (tmp_path / "exclusions.conf.d").write_text("a file")
    assert load(str(tmp_path)) == Exclusions([], [])


def test_a_link_to_a_list_is_a_list(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "nqn.a")
    (tmp_path / "exclusions.conf").symlink_to("elsewhere")
    assert load(str(tmp_path)).match({"nqn": "nqn.a"})


def test_unreadable_list_is_a_problem_and_harms_no_other(tmp_path: Path) -> None:
    drop_ins = tmp_path / "exclusions.conf.d"
    put(drop_ins / "z.conf", "nqn.a")
    os.mkfifo(drop_ins / "fifo.conf")
    (drop_ins / "large.conf").write_bytes(b"#" * (MAX_SIZE + 1))
    (drop_ins / "loop.conf").symlink_to("loop.conf")
    (drop_ins / "dir.conf").mkdir()
    (tmp_path / "exclusions").mkdir()
    os.mkfifo(tmp_path / "exclusions" / "fifo")
    (tmp_path / "exclusions" / "loop\n\udcff").symlink_to("loop\n\udcff")
    found = load(str(tmp_path))
    assert found.match({"nqn": "nqn.a"})
    assert found.problems == [
        (f"{drop_ins}/{name}", 0, f"{why}, so nothing in it counts; mend that")
        for name, why in [
            ("dir.conf", "it is not a regular file"),
            ("fifo.conf", "it is not a regular file"),
            ("large.conf", "it is larger than 1 MiB"),
            ("loop.conf", "Too many levels of symbolic links"),
        ]
    ] + [
        (
            f"{tmp_path}/exclusions/loop\\n\\udcff",
            0,
            "Too many levels of symbolic links, so nothing in it counts; mend that",
        )
    ]


def test_a_directory_that_cannot_be_listed_is_a_problem(tmp_path: Path) -> None:
    put(tmp_path / "exclusions.conf", "nqn.a")
    (tmp_path / "exclusions").symlink_to("exclusions")
    found = load(str(tmp_path))
    assert found.match({"nqn": "nqn.a"})
    assert [(file, line) for file, line, _ in found.problems] == [(f"{tmp_path}/exclusions", 0)]


files = st.lists(
    st.one_of(
        st.binary(max_size=60),
        st.sampled_from(
            [b"[exclusions]", b"exclusion = nqn=nqn.a", b"exclusion=", b"[", b"#", b"\xef\xbb\xbf", b"\xff"]
        ),
        st.text(alphabet="exclusion=[];#nq.traddvsh-0x:% \t\0", max_size=40).map(
            lambda text: b"exclusion=" + text.encode()
        ),
    ),
    max_size=12,
).map(b"\n".join)
values = st.text(max_size=20)


@given(files, st.dictionaries(st.sampled_from(sorted(KEYS.values())), values))
def test_no_bytes_raise(data: bytes, options: dict[str, str]) -> None:
    found = parse([("f", data)])
    found.match(options)
    assert found == parse([("f", data)])
    for _, line, sentence in found.problems:
        assert 0 < line <= data.count(b"\n") + 1
        assert sentence.isprintable()
    for entry in found.entries:
        assert set(entry.fields) <= set(KEYS)
    for line, _, _ in scan(data):
        assert 0 < line <= data.count(b"\n") + 1


@given(st.dictionaries(st.sampled_from(sorted(KEYS)), st.sampled_from(["tcp", "192.0.2.1", "nqn.a", "1"]), min_size=1))
def test_an_entry_matches_what_it_was_made_of(fields: dict[str, str]) -> None:
    understood, _ = understand(";".join(f"{key}={value}" for key, value in fields.items()))
    if understood:
        assert understood == fields
        options = {KEYS[key]: value for key, value in fields.items()}
        entry = one(";".join(f"{key}={value}" for key, value in fields.items()))
        assert entry.match(options | {"x": "y"})
        for name in options:
            assert not entry.match({key: value for key, value in options.items() if key != name})
            assert not entry.match(options | {name: "other"})


def test_the_sample_excludes_nothing_and_its_examples_are_sound() -> None:
    sample = Path(__file__).parents[2] / "docs/samples/exclusions.conf.sample"
    data = sample.read_bytes()
    assert parse([("sample", data)]) == Exclusions([], [])
    found = parse([("sample", data.replace(b"#exclusion", b"exclusion"))])
    assert (len(found.entries), found.problems) == (5, [])
