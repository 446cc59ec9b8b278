# SPDX-License-Identifier: Apache-2.0
"""Completion: the same verbs and options as the command, names through their colons, and no process."""

import argparse
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from discoverd.cli import command_line

from .fake_ctl import NQN, instance

FOLDER = Path(__file__).parents[2] / "packaging/completions"
BASH, ZSH, FISH = FOLDER / "discoverctl.bash", FOLDER / "_discoverctl", FOLDER / "discoverctl.fish"


def verbs(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of the verbs, and of the parts of those that have parts."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, one in action.choices.items():
                found[name] = one
                found |= {f"{name} {part}": its for part, its in verbs(one).items()}
    return found


def options(parser: argparse.ArgumentParser) -> set[str]:
    return {word for action in parser._actions for word in action.option_strings if word.startswith("--")}


VERBS = verbs(command_line.parser())


def complete(root: Path, line: str, breaks: str = " \t\n\"'@><=;|&(:") -> list[str]:
    """Return what bash would offer at the end of a line."""
    script = f"""
source {BASH}
_discoverctl_root={root}
COMP_WORDBREAKS=$2
COMP_LINE=$1 COMP_POINT=${{#1}}
_discoverctl
[[ ${{#COMPREPLY[@]}} == 0 ]] || printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    command = ["bash", "--norc", "-c", script, "bash", line, breaks]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert ended.stderr == ""
    return ended.stdout.splitlines()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in (instance(1), instance(2, "192.0.2.2"), r"tcp:192.0.2.1:4420:nqn.x:a\x20b::eth0"):
        (tmp_path / "run/discoverd/controllers" / name).mkdir(parents=True)
    for device, transport, nqn in (("nvme0", "pcie", "nqn.local"), ("nvme1", "tcp", NQN.format(1))):
        folder = tmp_path / "sys/class/nvme" / device
        folder.mkdir(parents=True)
        (folder / "transport").write_text(transport + "\n")
        (folder / "subsysnqn").write_text(nqn + "\n")
    (tmp_path / "sys/class/nvme/nvme2").mkdir()
    (tmp_path / "sys/class/net/eth0").mkdir(parents=True)
    return tmp_path


def test_bash_offers_all_verbs(root: Path) -> None:
    assert set(complete(root, "discoverctl ")) == {name for name in VERBS if " " not in name}
    assert complete(root, "discoverctl mon") == ["monitor"]


@pytest.mark.parametrize("verb", [*VERBS])
def test_bash_offers_the_options_of_a_verb(root: Path, verb: str) -> None:
    offered = set(complete(root, f"discoverctl {verb} --"))
    assert offered == options(VERBS[verb])


def test_bash_offers_what_options_and_verbs_take(root: Path) -> None:
    assert complete(root, "discoverctl wait --for=") == ["live", "any-path", "gone"]
    assert complete(root, "discoverctl wait --for ") == ["live", "any-path", "gone"]
    assert complete(root, "discoverctl wait --for=any") == ["any-path"]
    assert complete(root, "discoverctl connect --transport r") == ["rdma"]
    assert complete(root, "discoverctl connect --host-iface ") == ["eth0"]
    assert complete(root, "discoverctl identity ") == ["show", "init", "set-symname"]
    assert complete(root, "discoverctl log d") == ["debug", "default"]
    assert complete(root, "discoverctl wait --timeout ") == []


@pytest.mark.parametrize("verb", ["why", "status --json", "wait --timeout 5", "wait --for=gone", "stop nvme1"])
def test_bash_completes_controllers_through_the_colons(root: Path, verb: str) -> None:
    def offered(word: str) -> list[str]:
        return complete(root, f"discoverctl {verb} {word}")

    assert offered("nvme") == ["nvme1"]
    assert offered("tcp:192.0.2.2:") == ["4420:" + NQN.format(2)]
    assert offered("tcp:192.0.2.2:4420:nqn.2024-08.com.example:v") == ["vol2"]
    assert set(offered("nqn.2024-08.com.ex")) == {NQN.format(1), NQN.format(2)}
    assert set(offered("nqn.2024-08.com.example:vol")) == {"vol1", "vol2"}
    # As the shell takes it.
    assert offered("tcp:192.0.2.1:4420:nqn.x:") == [r"a\\x20b::eth0"]
    assert set(offered("nvme-ctrl@tcp:192.0.2.2")) == {"192.0.2.2:4420:" + NQN.format(2) + ".service"}
    assert offered("rdma") == []


def test_bash_completes_whole_words_where_a_colon_ends_none(root: Path) -> None:
    assert complete(root, "discoverctl why tcp:192.0.2.2:", " \t\n") == [instance(2, "192.0.2.2")]


def test_bash_on_a_host_without_anything(tmp_path: Path) -> None:
    assert complete(tmp_path, "discoverctl why ") == []


def test_bash_starts_no_process() -> None:
    """But for the names of files, which bash makes in a subshell."""
    text = BASH.read_text()
    assert re.findall(r"\$\((?!_discoverctl_|\()", text) == []
    assert text.count("<(") == 1
    for tool in ("discoverctl ", "python", "ls ", "cat ", "sed ", "awk ", "grep ", "find "):
        assert not re.search(rf"^\s*{tool}", text, re.MULTILINE)


@pytest.mark.parametrize("path", [ZSH, FISH], ids=["zsh", "fish"])
@pytest.mark.parametrize("verb", [*VERBS])
def test_other_shells_know_verbs_and_options(path: Path, verb: str) -> None:
    text = path.read_text()
    for word in verb.split():
        assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text)
    for option in options(VERBS[verb]) - {"--help"}:
        form = rf"-l {option[2:]}(?![\w-])" if path == FISH else rf"{option}(?![\w-])"
        assert re.search(form, text), option


@pytest.mark.parametrize(("shell", "path"), [("bash", BASH), ("zsh", ZSH), ("fish", FISH)])
def test_syntax(shell: str, path: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"there is no {shell}")
    subprocess.run([shell, "-n", path], check=True, timeout=30)
