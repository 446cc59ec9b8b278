# SPDX-License-Identifier: Apache-2.0
"""Files on a disk: which are read, what cannot be read, what --check says about them, and the samples."""

import os
import re
from pathlib import Path

import pytest

from discoverd.check import check
from discoverd.config.fabrics import load_fabrics
from discoverd.config.sources import MAX_SIZE, read_tree

SAMPLES = Path(__file__).parents[3] / "docs" / "samples"
GOOD = "[Discovery Controller]\ncontroller = transport=tcp;traddr=192.0.2.{}\n"
PERSONA = "[Host]\nhostnqn = nqn.2024-08.com.example:other\n" + GOOD.format(9)


@pytest.fixture
def main(tmp_path: Path) -> Path:
    (tmp_path / "nvme-fabrics.conf.d").mkdir()
    return tmp_path / "nvme-fabrics.conf"


def write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)


def test_nothing_there(tmp_path: Path) -> None:
    config = load_fabrics(tmp_path / "missing" / "nvme-fabrics.conf")
    assert (config.valid, config.connections, config.diagnostics) == (True, (), ())


def test_which_files_are_read_and_in_which_order(main: Path) -> None:
    drop_ins = main.with_name("nvme-fabrics.conf.d")
    for number, name in enumerate(("20-b.conf", "10-a.conf", ".hidden.conf", ".conf", "x.conf.bak", "README")):
        write(drop_ins / name, GOOD.format(number))
    write(main, GOOD.format(100))
    names = [Path(source.path).name for source in read_tree(main)]
    assert names == ["nvme-fabrics.conf", ".hidden.conf", "10-a.conf", "20-b.conf"]
    assert [connection.traddr for connection in load_fabrics(main).connections] == [
        "192.0.2.100",
        "192.0.2.2",
        "192.0.2.1",
        "192.0.2.0",
    ]


def test_unreadable_or_binary_file_is_a_problem(main: Path) -> None:
    drop_ins = main.with_name("nvme-fabrics.conf.d")
    (drop_ins / "1-dir.conf").mkdir()
    os.mkfifo(drop_ins / "2-fifo.conf")
    (drop_ins / "3-null.conf").symlink_to("/dev/null")
    (drop_ins / "4-dangling.conf").symlink_to("nowhere")
    (drop_ins / "5-loop.conf").symlink_to("5-loop.conf")
    write(drop_ins / "6-big.conf", "#" * (MAX_SIZE + 1))
    write(drop_ins / "7-just.conf", "#" * MAX_SIZE)
    write(drop_ins / "8-good.conf", GOOD.format(1))
    config = load_fabrics(main)
    assert not config.valid
    assert [(Path(d.path).name, d.message) for d in config.diagnostics] == [
        ("1-dir.conf", "is not a regular file"),
        ("2-fifo.conf", "is not a regular file"),
        ("3-null.conf", "is not a regular file"),
        ("5-loop.conf", "cannot be opened: Too many levels of symbolic links"),
        ("6-big.conf", "is larger than 1 MiB"),
    ]
    assert len(config.connections) == 1


def test_a_file_name_that_is_not_utf8(main: Path) -> None:
    path = os.fsencode(main.with_name("nvme-fabrics.conf.d")) + b"/\xff\x1b.conf"
    with open(path, "w") as file:
        file.write("junk")
    (diagnostic,) = load_fabrics(main).diagnostics
    assert str(diagnostic).encode().isascii()


def test_check_everything(main: Path) -> None:
    write(main, GOOD.format(1))
    write(main.with_name("nvme-fabrics.conf.d") / "a.conf", PERSONA)
    write(main.with_name("discoverd.conf"), "[Global]\nlog-level = loud\n")
    write(main.with_name("hostnqn"), "nqn.2024-08.com.example:host\n")
    write(main.with_name("hostid"), "46ba5037-7ce5-41fa-9452-48477bf00080\n")
    text, code = check(directory=main.parent)
    lines = text.splitlines()
    assert code == 1
    assert lines[0].startswith(f"error: {main.with_name('discoverd.conf')}:2:13: ")
    assert re.match(r"warning: .*a\.conf:4:1: .*no host ID of its own", lines[1])
    assert lines[2:] == ["1 error, 1 warning in 3 files; 2 connections"]


def test_check_files(main: Path) -> None:
    write(main, GOOD.format(1) + "bogus = 1\n")
    drop_in = main.with_name("nvme-fabrics.conf.d") / "a.conf"
    write(drop_in, "[Host]\ntos = 1\n")
    settings = main.with_name("discoverd.conf")
    write(settings, "[Global]\nlog-level = err\n")
    for path in (settings, main, drop_in):
        # Each with its neighbours.
        text, code = check([path])
        assert (code, "without a hostnqn" in text) == (1, True)
        assert text.splitlines()[-1] == "1 error, 1 warning in 3 files; 1 connection"
    drop_in.unlink()
    text, code = check([main, settings])
    assert (code, text.splitlines()[-1]) == (0, "0 errors, 1 warning in 2 files; 1 connection")
    main.unlink()
    assert check([settings]) == ("0 errors, 0 warnings in 1 file; 0 connections\n", 0)
    text, code = check([main.with_name("absent.conf")])
    assert (code, "does not exist" in text) == (1, True)


@pytest.mark.parametrize("uncommented", [False, True])
@pytest.mark.parametrize("name", ["nvme-fabrics.conf", "discoverd.conf"])
def test_samples_validate(tmp_path: Path, name: str, uncommented: bool) -> None:
    text = (SAMPLES / f"{name}.sample").read_text()
    if uncommented:
        text, examples = re.subn(r"^#(?=[a-z\[])", "", text, flags=re.MULTILINE)
        assert examples >= 2
    write(tmp_path / name, text)
    output, code = check([tmp_path / name])
    assert (output.splitlines()[0].split(" in ")[0], code) == ("0 errors, 0 warnings", 0)
    assert ("; 0 connections" in output) is (not uncommented or name == "discoverd.conf")
