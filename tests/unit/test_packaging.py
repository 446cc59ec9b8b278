# SPDX-License-Identifier: Apache-2.0
"""What is installed beside the package: units, the rule for polkit, and one version everywhere."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from discoverd import boot_record, registry, state
from discoverd.api import actions
from discoverd.cli.main import main
from discoverd.config import record
from discoverd.version import VERSION

ROOT = Path(__file__).parents[2]
MESON = (ROOT / "meson.build").read_text()


def settings(name: str, key: str) -> list[str]:
    """Return what a unit's file says for a key, a word for each."""
    text = (ROOT / "units" / name).read_text()
    return [word for line in re.findall(rf"^{key}=(.*)$", text, re.MULTILINE) for word in line.split()]


def test_one_version() -> None:
    assert re.search(r"version: '([^']+)'", MESON)[1] == VERSION  # type: ignore[index]
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION


def test_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"discoverctl {VERSION}\n"
    command = [sys.executable, "-m", "discoverd", "--version"]
    ended_process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert ended_process.stdout == f"discoverd {VERSION}\n"


def test_all_units_are_installed() -> None:
    for path in (ROOT / "units").rglob("*.*"):
        name = path.name.removesuffix(".in").removesuffix(".service")
        assert f"'{name}'" in MESON or f"'{path.relative_to(ROOT)}'" in MESON, path.name


def test_units_before_remote_mounts_wait_for_no_directory_in_var() -> None:
    """It can be on what they connect, and systemd starts none of them where it cannot make a directory in it."""
    early = [
        text
        for path in (ROOT / "units").glob("*.service.in")
        if re.search(r"^Before=.*(remote-fs-pre\.target|discoverd\.service)", text := path.read_text(), re.MULTILINE)
    ]
    assert len(early) > 2
    for text in early:
        assert not re.search(r"^((State|Cache|Logs)Directory|RequiresMountsFor)=|^PrivateTmp=yes", text, re.MULTILINE)


def test_directory_of_the_last_good_configuration_is_made_for_root_only() -> None:
    assert os.path.dirname(record.PATH) == state.LASTING
    made = re.findall(r"^[^#\n].*$", (ROOT / "units/discoverd.tmpfiles.conf").read_text(), re.MULTILINE)
    assert made == [f"d {state.LASTING} 0700 root root -"]
    assert "-" + state.LASTING in settings("discoverd.service.in", "ReadWritePaths")


def test_units_have_the_directories_and_sockets_of_the_code() -> None:
    assert settings("discoverd.service.in", "RuntimeDirectory") == [state.ROOT.removeprefix("/run/")]
    assert settings("discoverd.service.in", "RuntimeDirectoryMode") == [f"{state.PUBLIC_DIRECTORY:04o}"]
    assert "-" + os.path.dirname(registry.ROOT) in settings("discoverd.service.in", "ReadWritePaths")
    assert "-" + state.ROOT in settings("discoverd-api-action@.service.in", "ReadWritePaths")
    assert settings("discoverd-boot.service.in", "ConditionPathExists") == ["!" + boot_record.PATH]
    assert settings("discoverd-fork-server.socket", "ListenStream") == [state.FORK_SERVER]
    assert settings("discoverd-api-action.socket", "ListenStream") == [actions.SOCKET]


def test_no_installed_file_names_a_path_of_the_state_that_the_code_does_not_have() -> None:
    known = {
        *(state.ROOT, state.LASTING, state.CONTROLLERS, state.FORK_SERVER),
        *(actions.SOCKET, boot_record.PATH, registry.ROOT, os.path.dirname(registry.ROOT)),
    }
    for folder in ("packaging", "udev", "units"):
        named = {
            (path.name, named.rstrip("./"))
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
            for named in re.findall(r"/(?:run|var/lib)/(?:discoverd|nvme)[a-z-]*(?:/[a-z-]+)*", path.read_text())
        }
        assert named
        assert {one for one in named if one[1] not in known} == set()


def test_all_files_of_packaging_are_installed() -> None:
    for path in (ROOT / "packaging").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert f"'{path.relative_to(ROOT)}'" in MESON, path


@pytest.mark.parametrize("name", ["discoverd-identity", "discoverd-wait-online", "discoverd-metrics"])
def test_units_run_verbs_that_there_are(name: str) -> None:
    text = (ROOT / f"units/{name}.service.in").read_text()
    (words,) = re.findall(r"^ExecStart=@DISCOVERCTL@ (.*)$", text, re.MULTILINE)
    from discoverd.cli import command_line

    asked = command_line.parser().parse_args(words.split())
    assert asked.verb in name or asked.verb == "wait"


def test_rule_for_polkit_lets_nobody_make_a_unit() -> None:
    """By systemd 256 and later, the start of a unit by a prefix is also that of a transient one with any command."""
    text = (ROOT / "docs/samples/discoverd.rules.sample").read_text()
    code = "\n".join(line for line in text.splitlines() if not line.startswith("//"))
    (listed,) = re.findall(r"\[(.*)\]\.indexOf\(action\.lookup\(\"verb\"\)\) >= 0", code)
    assert set(re.findall(r'"([^"]+)"', listed)) == {"stop", "restart", "reset-failed"}
    assert '.indexOf("nvme-ctrl@") == 0' in code
