# SPDX-License-Identifier: Apache-2.0
"""discoverd.conf: values, overriding, and what a bad value falls back to."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from discoverd.config.settings import Settings, load_settings, parse_settings
from discoverd.config.sources import SourceFile

DOCUMENTS = Path(__file__).parents[3] / "docs"
HOUR = 3600

# For each key: what it takes, and as what; and what it does not take.
GOOD: dict[str, dict[str, Any]] = {
    "log-level": {"err": "err", "WARNING": "warning", "Info": "info", "debug": "debug"},
    "max-connecting": {"1": 1, "256": 256, "0x10": 16},
    "mdns": {"yes": True, "no": False, "TRUE": True, "off": False, "0": False},
    "mdns-interfaces": {"eth0": ("eth0",), "  eth0\t bond0.12 ": ("eth0", "bond0.12")},
    "mdns-ignore-interfaces": {"eth0": ("eth0",), "br-lan wl+1": ("br-lan", "wl+1")},
    "mdns-families": {"ipv4": ("ipv4",), "IPv6": ("ipv6",), "ipv6 ipv4 ipv6": ("ipv4", "ipv6")},
    "mdns-persistence": {"90": 90, "15min": 900, "15 min": 900, "72H": 72 * HOUR, "3d": 72 * HOUR, "never": 0, "0": 0},
    "nbft": {"no": False, "on": True},
    "fibre-channel": {"false": False, "1": True},
    "fc-kick-start-interval": {"30s": 30, "Never": 0, "5m": 300},
    "give-up": {"1 d": 24 * HOUR, "2 hours": 2 * HOUR, "1.5h": 5400, "10 days": 240 * HOUR, "45 sec": 45},
    "pleo": {"no": False, "True": True},
    "registration": {"none": "none", "trusted": "trusted", "ALL": "all"},
    "disconnect-scope": {"none": "none", "ours": "ours", "ALL": "all"},
    "disconnect-transports": {"tcp rdma": ("tcp", "rdma"), "FC": ("fc",), "fc  tcp\ttcp": ("tcp", "fc")},
    "disconnect-share": {"10%": 10, "0": 0, "100 %": 100},
    "connect-attempts-on-ncc": {"1": 1, "0": 0, "1000": 1000},
    "follow-transports": {"Auto": ("auto",), "none": (), "rdma  TCP": ("tcp", "rdma"), "rdma": ("rdma",)},
    "address-families": {"IPv4": ("ipv4",), "ipv6": ("ipv6",), "ipv6 ipv4": ("ipv4", "ipv6")},
    "ignore-iface": {"yes": True, "no": False},
    "parked-interval": {"1min": 60, "90": 90, "7d": 168 * HOUR},
}
BAD: dict[str, tuple[list[str], str]] = {
    "log-level": (["loud", "info # all"], "one of err, warning, info, debug"),
    "max-connecting": (["0", "257", "-1", "1.5", "many"], "a whole number from 1 to 256"),
    "mdns": (["maybe", "yes # please", "2"], "yes or no"),
    "mdns-interfaces": (["eth0,eth1", "a/b", "a-name-too-long-for-it", "."], "a list of interfaces"),
    "mdns-ignore-interfaces": (["eth0 eth:1", "\x07"], "a list of interfaces"),
    "mdns-families": (["ipx", "ipv4,ipv6", "4"], "ipv4, ipv6 or both"),
    "mdns-persistence": (["-1", "h", "3 weeks", "9" * 4000, "11 years"], "a time such as 30min, 72h or 3d"),
    "nbft": (["nbft"], "yes or no"),
    "fibre-channel": (["fc"], "yes or no"),
    "fc-kick-start-interval": (["always", "1h30min"], "a time such as 30min, 72h or 3d"),
    "give-up": (["3651d", "0.5s", "315360001", "9" * 50], "a time of whole seconds up to ten years"),
    "pleo": (["enabled"], "yes or no"),
    "registration": (["yes", "all none"], "one of trusted, all, none"),
    "disconnect-scope": (["only-stas-connections", "ours all"], "one of ours, all, none"),
    "disconnect-transports": (["tcp+rdma", "loop", "tcp, fc"], "a list of transports such as: tcp rdma fc"),
    "disconnect-share": (["101%", "-1", "half", "%"], "a share from 0%"),
    "connect-attempts-on-ncc": (["-1", "1001", "two"], "a whole number from 0 (no limit) to 1000"),
    "follow-transports": (["fc", "auto tcp", "none rdma", "tcp, rdma"], "auto, none, or a list of tcp rdma"),
    "address-families": (["ipx", "ipv4+ipv6", "4"], "ipv4, ipv6 or both"),
    "ignore-iface": (["true false", "eth0"], "yes or no"),
    "parked-interval": (["never", "0", "59s", "8d", "often"], "a time from 1min to 7d"),
}


def field(key: str) -> str:
    return key.replace("-", "_")


def pairs(table: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(key, value) for key, values in table.items() for value in values]


def sources(*texts: str) -> list[SourceFile]:
    return [SourceFile(f"f{number}", text.encode()) for number, text in enumerate(texts)]


def test_the_tables_here_have_every_key() -> None:
    keys = {one.name.replace("_", "-") for one in fields(Settings)}
    assert GOOD.keys() == keys
    assert BAD.keys() == keys


@pytest.mark.parametrize(("key", "text"), pairs(GOOD))
def test_setting_takes_the_values_of_its_key(key: str, text: str) -> None:
    settings, complaints = parse_settings(sources(f"[Global]\n{key} = {text}\n"))
    assert complaints == ()
    assert getattr(settings, field(key)) == GOOD[key][text]
    others = [one.name for one in fields(Settings) if one.name != field(key)]
    assert [getattr(settings, name) for name in others] == [getattr(Settings(), name) for name in others]


@pytest.mark.parametrize("key", BAD)
def test_a_value_that_a_key_does_not_take_keeps_the_one_from_before(key: str) -> None:
    texts, expected = BAD[key]
    text, good = next((text, value) for text, value in GOOD[key].items() if value != getattr(Settings(), field(key)))
    last, complaints = parse_settings(sources(f"[Global]\n{key} = {text}\n"))
    assert complaints == ()
    for bad in texts:
        settings, (complaint,) = parse_settings(sources(f"[Global]\n{key} = {bad}\n"), last)
        assert settings == last, bad
        assert getattr(settings, field(key)) == good
        assert complaint.severity == "error"
        assert f"is not {expected}" in str(complaint)
        assert str(complaint).startswith(f"f0:2:{len(key) + 4}: {key} = ")
        assert len(str(complaint)) < 400
        # Without one from before, the default.
        assert parse_settings(sources(f"[Global]\n{key} = {bad}\n"))[0] == Settings()


@pytest.mark.parametrize("key", GOOD)
def test_drop_ins_override_and_an_empty_value_is_the_default(key: str) -> None:
    text, good = next((text, value) for text, value in GOOD[key].items() if value != getattr(Settings(), field(key)))
    given = f"[Global]\n{key} = {text}\n"
    empty = f"[Global]\n{key} =\n"
    assert getattr(parse_settings(sources(empty, given))[0], field(key)) == good
    assert parse_settings(sources(given, empty), Settings(max_connecting=5)) == (Settings(), ())
    assert parse_settings(sources(given, "[Global]\n")) == parse_settings(sources(given))


def test_the_sample_has_every_key_with_its_default() -> None:
    text = (DOCUMENTS / "samples/discoverd.conf.sample").read_text()
    assert parse_settings(sources(text)) == (Settings(), ())
    lines = re.findall(r"^#([a-z-]+ =.*)$", text, re.MULTILINE)
    assert [line.split(" ")[0] for line in lines] == list(GOOD)
    # The defaults are written out: they stand where other values were before.
    other = "[Global]\n" + "".join(
        f"{key} = {next(text for text, value in values.items() if value != getattr(Settings(), field(key)))}\n"
        for key, values in GOOD.items()
    )
    assert parse_settings(sources(other, "[Global]\n" + "\n".join(lines))) == (Settings(), ())


def test_the_manual_has_every_key() -> None:
    text = (DOCUMENTS / "man/discoverd.conf.5").read_text()
    assert re.findall(r"^\.It Cm ([a-z-]+)$", text, re.MULTILINE) == list(GOOD)


def test_nothing_configured(tmp_path: Path) -> None:
    assert load_settings(tmp_path / "discoverd.conf") == (Settings("info", 16), ())


def test_values_and_drop_ins(tmp_path: Path) -> None:
    main = tmp_path / "discoverd.conf"
    main.write_text("[Global]\nlog-level = Debug\nmax-connecting = 0x20\n")
    drop_ins = tmp_path / "discoverd.conf.d"
    drop_ins.mkdir()
    (drop_ins / "20-b.conf").write_text("[Global]\nmax-connecting = 3\n")
    (drop_ins / "10-a.conf").write_text("[Global]\nmax-connecting = 2\nlog-level =\n")
    assert load_settings(main) == (Settings("info", 3), ())


@pytest.mark.parametrize(
    ("text", "place", "severity", "message"),
    [
        (
            "[Global]\nlog-level = loud\n",
            "f0:2:13",
            "error",
            "one of err, warning, info, debug; err is used",
        ),
        ("[Global]\nmax-connecting = 0\n", "f0:2:18", "error", "from 1 to 256; 5 is used"),
        ("[Global]\nmax-connecting = 257\n", "f0:2:18", "error", "from 1 to 256; 5 is used"),
        ("[Global]\nmax-connecting = 3 # few\n", "f0:2:18", "error", "comments go on a line of their own"),
        ("[Global]\nmax_connecting = 3\n", "f0:2:1", "warning", "did you mean max-connecting?"),
        ("[global]\nlog-level = err\n", "f0:1:1", "warning", "did you mean Global?"),
        ("log-level = err\n", "f0:1:1", "error", "put it below [Global]"),
    ],
)
def test_faults(text: str, place: str, severity: str, message: str) -> None:
    settings, (diagnostic,) = parse_settings(sources(text), Settings("err", 5))
    assert diagnostic.severity == severity
    assert str(diagnostic).startswith(place + ": ")
    assert message in str(diagnostic)
    expected = {"log-level": Settings("err", 16), "max-connecting": Settings("info", 5)}
    if severity == "error" and "before" not in message and text.startswith("[Global]"):
        assert settings == expected[text.split("\n")[1].split(" ")[0]]
    else:
        assert settings == Settings()
