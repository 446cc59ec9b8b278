# SPDX-License-Identifier: Apache-2.0
"""What discoverctl imports: help no verb at all, and each look what it shows. Modules are the budget, for time is not
the same on two machines; tests/bench/verbs.py measures it."""

import subprocess
import tempfile
from pathlib import Path

import pytest

import discoverd
from discoverd import log_level
from discoverd.cli import command_line, order, verbs
from discoverd.config.settings import LOG_LEVELS

PACKAGE = Path(discoverd.__file__).parent
# What takes long to import, or tells that something came along that no look needs.
HEAVY = {
    "asyncio",
    "ctypes",
    "discoverd.bus",
    "discoverd.kernel.inotify",
    "discoverd.supervisor",
    "discoverd.worker",
    "email",
    "hashlib.scrypt",
    "http",
    "logging",
    "lxml.etree",
    "multiprocessing",
    "pyudev",
    "ssl",
    "subprocess",
    "unittest",
    "xml",
}
# So many modules of ours, and of all, may be there in the end.
HELP_MOST, LOOK_OURS, LOOK_MOST = 90, 66, 230
LOOKS = ("list", "status", "why nvme0", "log-page nvme0")


def modules(code: str) -> set[str]:
    """Return what an interpreter has loaded that begins as the launcher does, and goes on with ``code``.

    What verbs do is left out: there may be no systemd here.
    """
    head, _, _ = (PACKAGE / "launchers/discoverctl.in").read_text().partition("from discoverd")
    head = head.replace("@PACKAGE_DIR@", str(PACKAGE.parent))
    with tempfile.NamedTemporaryFile("w", prefix="discoverctl.") as launcher:
        launcher.write(head + code + "\nsys.stdout.write(' '.join(sys.modules))\n")
        launcher.flush()
        command = ["/usr/bin/python3", "-I", launcher.name]
        ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return set(ended.stdout.rpartition("\n")[2].split())


def ours(loaded: set[str]) -> set[str]:
    return {one for one in loaded if one.partition(".")[0] == "discoverd"}


def test_help_imports_no_verb() -> None:
    help_ = "from discoverd.cli.main import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
    loaded = modules(help_)
    assert ours(loaded) == {
        "discoverd",
        "discoverd.cli",
        "discoverd.cli.command_line",
        "discoverd.cli.main",
        "discoverd.time_span",
        "discoverd.version",
    }
    assert loaded & (HEAVY | {"dataclasses", "json", "pystemd", "typing"}) == set()
    assert len(loaded) <= HELP_MOST, sorted(loaded)


@pytest.mark.parametrize("words", LOOKS)
def test_look_imports_what_it_shows(words: str) -> None:
    """Whatever comes of it: the modules are imported before systemd is asked."""
    look = f"from discoverd.cli.main import main\nmain({words.split()!r})\n"
    loaded = modules(look)
    assert "discoverd.cli.overview" in loaded
    assert {one for one in HEAVY if any(name == one or name.startswith(one + ".") for name in loaded)} == set()
    assert len(ours(loaded)) <= LOOK_OURS, sorted(ours(loaded))
    assert len(loaded) <= LOOK_MOST, sorted(loaded)


@pytest.mark.parametrize("other", ["doctor", "exclude", "disconnect", "import_stas", "plan", "connect", "identity"])
def test_list_imports_no_other_verb(other: str) -> None:
    assert f"discoverd.cli.{other}" not in modules("from discoverd.cli.main import main\nmain(['list'])\n")


def test_choices_of_the_command_line_are_those_of_the_modules_that_it_does_not_import() -> None:
    assert tuple(order._KEYS) == command_line.ORDERS
    assert (*LOG_LEVELS, log_level.DEFAULT) == command_line.LEVELS


def test_each_verb_of_the_command_line_runs_something() -> None:
    (action,) = (one for one in command_line.parser()._actions if one.dest == "verb")
    assert action.choices is not None
    assert set(action.choices) == set(verbs.RUN)
