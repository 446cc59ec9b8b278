# SPDX-License-Identifier: Apache-2.0
"""discoverctl metrics: OpenMetrics text, and the older one for node_exporter's textfile collector."""

import re
import stat
import time
from pathlib import Path

import pytest

from discoverd import state
from discoverd.cli import metrics
from discoverd.cli.exits import Exit
from discoverd.cli.metrics import Family
from discoverd.version import VERSION

from .fake_ctl import NQN, Desk, install, instance
from .log_pages import page

# A line of either format: a comment, or name, labels and number.
SAMPLE = re.compile(r'[a-z_]+(\{[a-z_]+="([^"\\\n]|\\[\\"n])*"(,[a-z_]+="([^"\\\n]|\\[\\"n])*")*\})? -?[0-9.]+')
HELP = re.compile(r"# HELP [a-z_]+ .+")
TYPE = re.compile(r"# TYPE [a-z_]+ (gauge|counter)")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    made = Desk(tmp_path, capsys)
    install(made, monkeypatch)
    return made


def report(name: str, word: str, **fields: str) -> None:
    given = {"state": word, "status": word, **{key.replace("_", "-"): value for key, value in fields.items()}}
    (Path(state.directory(name)) / "report").write_bytes(state.encode(state.REPORT, list(given.items())))


def samples(text: str, textfile: bool = False) -> dict[str, str]:
    """Return the samples of a text that keeps the rules of its format."""
    lines = text.splitlines()
    assert text.endswith("\n")
    assert ("# EOF" in lines) == (not textfile)
    assert textfile or lines[-1] == "# EOF"
    family, kind = "", ""
    seen = set()
    for line in lines if textfile else lines[:-1]:
        if HELP.fullmatch(line):
            family = line.split()[2]
            # All about one metric is in one group.
            assert family not in seen
            seen.add(family)
        elif TYPE.fullmatch(line):
            _, _, name, kind = line.split()
            assert name == family
            # OpenMetrics has the suffix at the samples alone; for the older format they have the name of the metric.
            assert (kind == "counter" and textfile) == name.endswith("_total")
        else:
            assert SAMPLE.fullmatch(line), line
            suffix = "_total" if kind == "counter" and not textfile else ""
            assert re.split("[ {]", line)[0] == family + suffix
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


def test_all_that_is_asked_for_is_told(desk: Desk) -> None:
    one, two = desk.controller(1, "nvme0"), desk.controller(2, "")
    three = desk.controller(3, "", action="leave")
    desk.kernel(4, "nvme4", owner="stas")
    counts = {"attempts_made": "3", "losses": "2", "reconnects": "1"}
    report(one, "live", device="nvme0", registered="yes", **counts)
    report(two, "parked", attempts_made="7")
    now = int(time.clock_gettime(time.CLOCK_BOOTTIME) * 1000)
    head = state.encode(state.LOG, [("milliseconds", str(now - 5000))])
    (Path(state.directory(one)) / "log").write_bytes(head + page(generation=9))
    desk.plan |= {"refusals": [{"what": "a", "source": "b", "reason": "c"}], "errors": 1}
    status, output, errors = desk.run("metrics")
    assert (status, errors) == (0, "")
    found = samples(output)

    def of(name: str, controller: str) -> str:
        return found[f'discoverd_controller_{name}{{controller="{controller}"}}']

    assert found[f'discoverd_build_info{{version="{VERSION}"}}'] == "1"
    assert (found["discoverd_running"], found["discoverd_configuration_valid"], found["discoverd_refused"]) == (
        *("1", "0"),
        "1",
    )
    assert [of("wanted", name) for name in (one, two, three)] == ["1", "1", "0"]
    assert [of("live", name) for name in (one, two, three)] == ["1", "0", "0"]
    assert [of("parked", name) for name in (one, two)] == ["0", "1"]
    assert (of("attempts_total", one), of("losses_total", one), of("reconnects_total", one)) == ("3", "2", "1")
    assert of("attempts_total", two) == "7"
    assert of("registered", one) == "1"
    assert f'discoverd_controller_registered{{controller="{two}"}}' not in found
    described = f'controller="{one}",transport="tcp",subsysnqn="{NQN.format(1)}",device="nvme0"'
    assert found[f"discoverd_controller_info{{{described}}}"] == "1"
    assert found[f'discoverd_log_page_generation{{controller="{one}"}}'] == "9"
    assert 4 < float(found[f'discoverd_log_page_age_seconds{{controller="{one}"}}']) < 60
    # What others own is theirs to count.
    assert instance(4) not in output


def test_counters_have_the_name_of_their_family(desk: Desk) -> None:
    report(desk.controller(1, "nvme0"), "live")
    lines = desk.run("metrics")[1].splitlines()
    place = lines.index("# TYPE discoverd_controller_losses counter")
    assert lines[place - 1].startswith("# HELP discoverd_controller_losses ")
    assert lines[place + 1].startswith("discoverd_controller_losses_total{")


def test_textfile_collector_gets_counters_as_counters(desk: Desk) -> None:
    report(desk.controller(1, "nvme0"), "live", losses="2")
    path = desk.root / "discoverd.prom"
    assert desk.run("metrics", "--output", str(path))[0] == 0
    lines = path.read_text().splitlines()
    place = lines.index("# TYPE discoverd_controller_losses_total counter")
    assert lines[place - 1].startswith("# HELP discoverd_controller_losses_total ")
    assert lines[place + 1].startswith("discoverd_controller_losses_total{")
    printed = samples(desk.run("metrics")[1])
    assert samples(path.read_text(), textfile=True).keys() == printed.keys()
    other = desk.root / "discoverd.txt"
    assert desk.run("metrics", "--output", str(other))[0] == 0
    assert samples(other.read_text()).keys() == printed.keys()


def test_without_a_plan_nothing_is_said_of_the_configuration(desk: Desk) -> None:
    status, output, _ = desk.run_as_it_is("metrics")
    assert status == 0
    assert "discoverd_configuration_valid" not in samples(output)
    desk.bus.units["discoverd.service"].active = "failed"
    assert samples(desk.run_as_it_is("metrics")[1])["discoverd_running"] == "0"


def test_label_cannot_forge_a_sample() -> None:
    labels = (("controller", 'x"} 1\nforged{a="\\'),)
    text = metrics.document([Family("name", "gauge", "What it is.", ((labels, 1.0),))])
    assert len(text.splitlines()) == 4
    samples(text)


def test_file_is_written_in_one_step(desk: Desk) -> None:
    path = desk.root / "discoverd.prom"
    assert desk.run("metrics", "--output", str(path)) == (0, "", "")
    samples(path.read_text(), textfile=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    status, _, errors = desk.run("metrics", "--output", "/none/discoverd.prom")
    assert (status, "is no directory" in errors) == (Exit.FAILED, True)
