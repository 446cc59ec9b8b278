# SPDX-License-Identifier: Apache-2.0
"""The benchmark of verbs: what it makes of its measurements, and that it measures what there is."""

from discoverd.cli import command_line
from tests.bench import verbs
from tests.bench.verbs import Took


def test_first_run_is_for_the_caches() -> None:
    assert verbs.took("x", ["900.0 800.0", "10.0 8.0", "30.0 9.0", "20.0 7.0"]) == Took("x", 20.0, 30.0, 8.0)


def test_table() -> None:
    lines = verbs.table([Took("discoverctl list", 75.26, 80.0, 70.0)]).splitlines()
    assert lines[1].split() == ["discoverctl", "list", "75.3", "80.0", "70.0"]
    assert len(lines[0]) == len(lines[1])


def test_verbs_are_those_of_the_command() -> None:
    for words in verbs.LOOKS:
        assert command_line.parser().parse_args(words).verb == words[0]


def test_what_needs_no_systemd_is_measured_here() -> None:
    found = verbs.here(1)
    assert [one.command for one in found][-1] == "completion of a controller"
    assert all(one.median >= 0 for one in found)
