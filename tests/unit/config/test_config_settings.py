# SPDX-License-Identifier: Apache-2.0
"""discoverd.conf: values, overriding, and what a bad value falls back to."""

from pathlib import Path

import pytest

from discoverd.config.settings import Settings, load_settings, parse_settings
from discoverd.config.sources import SourceFile


def sources(*texts: str) -> list[SourceFile]:
    return [SourceFile(f"f{number}", text.encode()) for number, text in enumerate(texts)]


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
