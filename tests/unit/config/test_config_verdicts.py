# SPDX-License-Identifier: Apache-2.0
"""What nvme-fabrics.conf accepts and rejects, with the place and the hint."""

from collections.abc import Callable

import pytest

from discoverd.config.keys import parse_int
from discoverd.config.model import FabricsConfig

Fabrics = Callable[..., FabricsConfig]

NQN = "nqn.2024-08.com.example:vol1"
SUBSYSTEM = f"[Subsystem]\nnqn = {NQN}\n"
TCP = "controller = transport=tcp;traddr=192.0.2.1"
OWN_LINE = "comments go on a line of their own"

ERRORS = [
    # text, line, column, part of the message, part of the hint
    ("ctrl-loss-tmo = 5\n", 1, 1, "before any section", "below a [Section]"),
    ("[Host]\n  what is this\n", 2, 3, "neither a section nor a key", "key = value"),
    ("[Host]\n; remark\n", 2, 1, "neither a section nor a key", "a comment begins with '#'"),
    ("[Host]\n= 5\n", 2, 1, "neither a section nor a key", ""),
    ("[Subsystem] # mine\nnqn = " + NQN, 1, 13, "follows the section header", OWN_LINE),
    ("[Host] tail\n", 1, 8, "follows the section header", "stands alone"),
    ("[Host]]\n", 1, 7, "follows the section header", ""),
    ("[]\n", 1, 1, "header is malformed", "[Section]"),
    ("[ ]\n", 1, 1, "header is malformed", "[Section]"),
    ("[Host\n", 1, 1, "header is malformed", "[Section]"),
    ("\ufeff[Host]\n", 1, 1, "byte order mark", "without BOM"),
    ("[Host]\na\0b\n", 2, 2, "NUL", "not a text file"),
    (b"[Host]\nhostsymname = \xff\n", 2, 15, "not valid UTF-8", "save"),
    ("[Host]\nhostsymname = a\rb\n", 2, 1, "carriage return", "CR LF"),
    ("[Host]\n[Host]\n", 2, 1, "second [Host]", "line 1"),
    ("[Subsystem]\n" + TCP, 1, 1, "without an nqn", "add: nqn"),
    ("[Subsystem]\nnqn =\n", 2, 6, "nqn is empty", ""),
    ("[Subsystem]\nnqn = not-an-nqn\n", 2, 7, "does not begin with 'nqn.'", ""),
    ("[Subsystem]\nnqn = nqn.2014-13.org.nvmexpress:test\n", 2, 7, "month 13", ""),
    ("[Subsystem]\nnqn = nqn.2014-08.org.nvmexpress\n", 2, 7, "colon and a name", ""),
    ("[Subsystem]\nnqn = nqn.2014-08.org.nvmexpress:" + "x" * 250, 2, 7, "223", ""),
    ("[Subsystem]\nnqn = nqn.2014-08.org.nvmexpress:völ\n", 2, 7, "not ASCII", ""),
    (f"[Subsystem]\nnqn = {NQN} # mine\n", 2, 7, "not allowed", OWN_LINE),
    ("[Host]\nhostnqn = not-an-nqn\n", 2, 11, "hostnqn", ""),
    ("[Host]\nhostid = 00000000-0000-0000-0000-000000000000\n", 2, 10, "zero", ""),
    ("[Host]\nhostid = not-a-uuid\n", 2, 10, "not a UUID", ""),
    ("[Discovery Controller Defaults]\nhostnqn = x\n", 2, 1, "does not belong in", "can stand in [Host]"),
    ("[Host]\nnqn = x\n", 2, 1, "does not belong in [Host]", "[Subsystem]"),
    ("[Host]\n" + TCP, 2, 1, "does not belong in [Host]", "[Subsystem]"),
    ("[Host]\npersistent = no\n", 2, 1, "does not belong in [Host]", "[Discovery Controller]"),
    ("[I/O Controller Defaults]\npersistent = no\n", 2, 1, "does not belong in", ""),
    (SUBSYSTEM + "persistent = no\n", 3, 1, "does not belong in [Subsystem]", ""),
    (
        "[Discovery Controller]\npersistent = yes\n",
        2,
        14,
        "not no, auto or force",
        "write no, auto or force",
    ),
    (
        "[I/O Controller Defaults]\nctrl-loss-tmo = ten\n",
        2,
        17,
        "not a whole number",
        "write a whole number",
    ),
    ("[I/O Controller Defaults]\nctrl-loss-tmo = 600 # s\n", 2, 17, "not a whole number", OWN_LINE),
    ("[I/O Controller Defaults]\ntos = 2147483648\n", 2, 7, "not a whole number", ""),
    ("[I/O Controller Defaults]\ntos = 08\n", 2, 7, "not a whole number", ""),
    (SUBSYSTEM + "tls = maybe\n", 3, 7, "not true or false", "write true or false"),
    (SUBSYSTEM + "controller =\n", 3, 13, "no transport and no traddr", "192.0.2.1"),
    (SUBSYSTEM + "controller = transport=tcp\n", 3, 14, "no traddr", ""),
    (SUBSYSTEM + TCP + ";bogus=1\n", 3, 45, 'unknown key "bogus"', ""),
    (SUBSYSTEM + TCP + ";trsvid=1\n", 3, 45, 'unknown key "trsvid"', "did you mean trsvcid?"),
    (SUBSYSTEM + TCP + ";traddr=192.0.2.2\n", 3, 45, "traddr is given twice", "one path"),
    (SUBSYSTEM + TCP + ";trsvcid=\n", 3, 53, "trsvcid is empty", "remove it"),
    (SUBSYSTEM + TCP + "; word\n", 3, 46, "not key=value", "separated by ';'"),
    (SUBSYSTEM + TCP + ";=4\n", 3, 45, "not key=value", ""),
    (SUBSYSTEM + TCP + " # a; b\n", 3, 50, "not key=value", OWN_LINE),
    (SUBSYSTEM + TCP + ";tls-key=k\n", 3, 45, "does not belong on a controller line", "in [Subsystem]"),
    (SUBSYSTEM + TCP + ";nqn=x\n", 3, 45, "does not belong on a controller line", ""),
    (SUBSYSTEM + TCP + ";hostnqn=x\n", 3, 45, "does not belong on a controller line", "in [Host]"),
    (SUBSYSTEM + TCP + ";persistent=no\n", 3, 45, "does not belong", "in [Discovery Controller"),
    (SUBSYSTEM + TCP + ";tos=x\n", 3, 49, "not a whole number", ""),
]


@pytest.mark.parametrize(("text", "line", "column", "message", "hint"), ERRORS)
def test_error(fabrics: Fabrics, text: str, line: int, column: int, message: str, hint: str) -> None:
    config = fabrics(text)
    errors = [diagnostic for diagnostic in config.diagnostics if diagnostic.severity == "error"]
    assert not config.valid
    assert not config.connections
    assert [(error.line, error.column) for error in errors] == [(line, column)], errors
    assert message in errors[0].message
    assert hint in errors[0].hint
    assert str(errors[0]).startswith(f"main:{line}:{column}: ")


WARNINGS = [
    ("[subsystem]\nwhatever = x\n", 1, 1, "unknown section [subsystem]", "did you mean Subsystem?"),
    ("[Future]\nwhatever = x\n", 1, 1, "unknown section [Future]", ""),
    (
        "[I/O Controller Defaults]\nctrl_loss_tmo = 5\n",
        2,
        1,
        '"ctrl_loss_tmo"',
        "did you mean ctrl-loss-tmo?",
    ),
    (SUBSYSTEM + TCP + "\nNqn = 5\n", 4, 1, '"Nqn"', "did you mean nqn?"),
    ("[I/O Controller Defaults]\n[I/O Controller Defaults]\n", 2, 1, "repeated section", "later lines win"),
    (SUBSYSTEM + f"nqn = {NQN}2\n{TCP}", 3, 1, "line 2 said something already", "last line wins"),
    ("[Host]\ndhchap-secret =\n", 2, 1, "older name of kxchap-secret", "write kxchap-secret"),
    (b"# caf\xe9\n", 1, 6, "not valid UTF-8", "save"),
    ("[Host]\nhostsymname = a\x1b[1m\n", 2, 15, "control character", "plain text"),
    ("[Discovery Controller]\n", 1, 1, "no effect", "add a controller line"),
    (SUBSYSTEM, 1, 1, "no effect", "add a controller line"),
]


@pytest.mark.parametrize(("text", "line", "column", "message", "hint"), WARNINGS)
def test_warning(fabrics: Fabrics, text: str, line: int, column: int, message: str, hint: str) -> None:
    config = fabrics(text)
    assert config.valid
    assert [(d.severity, d.line, d.column) for d in config.diagnostics] == [("warning", line, column)]
    assert message in config.diagnostics[0].message
    assert hint in config.diagnostics[0].hint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n# comment\n   # indented\n\n",
        "[Host]\r\nctrl-loss-tmo = 5\r\n",
        "[ Host ]\n",
        "[Discovery Controller]\ncontroller = ;transport=tcp; traddr = 192.0.2.1 ;;\n",
        "[Host]\nhostid =\nhostnqn =\nhostsymname =\n",
        "[Host]\nhostsymname = a = b # and c\n",
        "[I/O Controller Defaults]\ntls = ON\nconcat = f\nkeyring =\ntos = -1\nqueue-size = 0x1E\n",
    ],
)
def test_accepted(fabrics: Fabrics, text: str) -> None:
    config = fabrics(text)
    assert config.valid
    assert config.diagnostics == ()


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("600", 600),
        ("-1", -1),
        ("+7", 7),
        ("0x1E", 30),
        ("-0X10", -16),
        ("030", 24),
        ("00", 0),
        ("2147483647", 2**31 - 1),
        ("-2147483648", -(2**31)),
        ("2147483648", None),
        ("08", None),
        ("0x", None),
        ("0b1", None),
        ("1_000", None),
        ("1.5", None),
        ("12x", None),
        ("", None),
        ("- 1", None),
        ("٣", None),
        ("9" * 5000, None),
    ],
)
def test_integers_are_read_as_strtol_reads_them(text: str, number: int | None) -> None:
    assert parse_int(text) == number


def test_every_error_of_a_file_is_reported(fabrics: Fabrics) -> None:
    config = fabrics("[Host]\nhostid = x\nqueue-size = y\njunk\n")
    assert [d.line for d in config.diagnostics] == [2, 3, 4]


def test_a_file_of_garbage_gives_a_bounded_report(fabrics: Fabrics) -> None:
    config = fabrics("garbage\n" * 100_000)
    assert len(config.diagnostics) == 101
    assert "more faults" in config.diagnostics[-1].message


def test_an_error_beyond_the_bound_still_counts(fabrics: Fabrics) -> None:
    config = fabrics("[Host]\n" + "x = 1\n" * 200 + "garbage\n")
    assert not config.valid
