# SPDX-License-Identifier: Apache-2.0
"""``discoverctl metrics``: how things are, for node_exporter's textfile collector and for what reads OpenMetrics.

https://prometheus.io/docs/specs/om/open_metrics_spec/ is the format. The collector reads files that end in ``.prom``,
and in these an older one, https://prometheus.io/docs/instrumenting/exposition_formats/ (0.0.4): it names a counter as
its samples are named, where OpenMetrics leaves ``_total`` to the samples, and has no type ``info`` and no end. What
node_exporter tells of NVMe by itself, such as the states of paths, is left to it. The counters are those of the
workers: they begin anew when one does.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from discoverd import state, store
from discoverd.cli import files
from discoverd.cli.exits import CliError, Exit
from discoverd.cli.overview import Controller, Overview
from discoverd.cli.systemd import Systemd
from discoverd.cli.unit import DAEMON
from discoverd.config.errors import printable
from discoverd.plan.log_page import LogPageError
from discoverd.version import VERSION

_TEMPORARY = ".discoverd."
# What the textfile collector of node_exporter reads ends like this.
_TEXTFILE = ".prom"

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: ``kind`` is gauge or counter, ``samples`` are labels and values."""

    name: str
    kind: str
    about: str
    samples: tuple[tuple[Labels, float], ...]


def show(overview: Overview, systemd: Systemd, output: str) -> Exit:
    """Print the metrics, or write them to a file in one step. Raises CliError."""
    unit = systemd.units([DAEMON])[DAEMON]
    path = Path(output)
    textfile = output != "" and path.suffix == _TEXTFILE
    found = document(families(overview, unit.active in ("active", "reloading")), textfile=textfile)
    if not output:
        sys.stdout.write(found)
        return Exit.OK
    if not path.parent.is_dir():
        raise CliError(f"{path.parent} is no directory; make it, or name another one: --output FILE")
    files.replace(path, found.encode(), 0o644, _TEMPORARY)
    return Exit.OK


def families(overview: Overview, runs: bool) -> Iterator[Family]:
    """Yield the metrics, in the order in which they are written."""
    controllers = [one for one in overview.controllers if one.known]
    yield Family("discoverd_build_info", "gauge", "The version of discoverctl.", (((("version", VERSION),), 1),))
    yield Family("discoverd_running", "gauge", "Whether discoverd runs.", (((), runs),))
    if not overview.plan.fault:
        yield from _of_plan(overview)
    about = "What a controller is; all else is told by its instance, which stays the same."
    described = tuple((_described(one), 1.0) for one in controllers)
    yield Family("discoverd_controller_info", "gauge", about, described)
    yield _each(
        "discoverd_controller_wanted", "gauge", "Whether it is to be connected.", controllers, lambda one: one.wanted
    )
    yield _each("discoverd_controller_live", "gauge", "Whether it is live.", controllers, lambda one: one.live)
    parked = _reported(controllers, lambda one: one.state == state.PARKED)
    what = "Whether it is a discovery controller that is read now and then, without a connection."
    yield Family("discoverd_controller_parked", "gauge", what, parked)
    for name, attribute, about in (
        ("attempts", "attempts_made", "Attempts to connect."),
        ("losses", "losses", "Connections that were lost."),
        ("reconnects", "reconnects", "Connections that were made again after a loss, by the kernel or anew."),
    ):
        samples = _reported(controllers, lambda one, attribute=attribute: getattr(one, attribute))
        yield Family(f"discoverd_controller_{name}", "counter", about, samples)
    registered = tuple(
        (_labels(one), float(one.report.registered == "yes"))
        for one in controllers
        if one.report and one.report.registered
    )
    what = "Whether the discovery controller has accepted the registration of this host."
    yield Family("discoverd_controller_registered", "gauge", what, registered)
    yield from _of_pages(controllers)


def _of_plan(overview: Overview) -> Iterator[Family]:
    about = "Whether the configuration was without an error when it was read last."
    yield Family("discoverd_configuration_valid", "gauge", about, (((), not overview.plan.errors),))
    number = len(overview.plan.refusals)
    yield Family("discoverd_refused", "gauge", "What is asked for and cannot be connected.", (((), number),))


def _of_pages(controllers: Iterable[Controller]) -> Iterator[Family]:
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    ages, generations, entries = [], [], []
    for one in controllers:
        try:
            read = store.read_log(one.name)
        except LogPageError:
            continue
        if read is not None:
            labels = _labels(one)
            ages.append((labels, max(0.0, now - read.time)))
            generations.append((labels, float(read.page.generation)))
            entries.append((labels, float(read.page.records)))
    about = "Seconds since the discovery log page was read."
    yield Family("discoverd_log_page_age_seconds", "gauge", about, tuple(ages))
    yield Family("discoverd_log_page_generation", "gauge", "The generation of the log page.", tuple(generations))
    yield Family("discoverd_log_page_entries", "gauge", "The entries of the log page.", tuple(entries))


def _each(
    name: str, kind: str, about: str, controllers: Iterable[Controller], value: Callable[[Controller], float]
) -> Family:
    return Family(name, kind, about, tuple((_labels(one), float(value(one))) for one in controllers))


def _reported(controllers: Iterable[Controller], value: Callable[..., float]) -> tuple[tuple[Labels, float], ...]:
    return tuple((_labels(one), float(value(one.report))) for one in controllers if one.report)


def _labels(controller: Controller) -> Labels:
    return (("controller", controller.name),)


def _described(controller: Controller) -> Labels:
    device = controller.device.name if controller.device else ""
    said = (("transport", controller.transport), ("subsysnqn", controller.subsysnqn), ("device", device))
    return (*_labels(controller), *said)


def document(found: Iterable[Family], *, textfile: bool = False) -> str:
    """Return these metrics as OpenMetrics text, or as the older one. A metric without a sample is left out."""
    lines = []
    for one in found:
        if not one.samples:
            continue
        sample = f"{one.name}_total" if one.kind == "counter" else one.name
        family = sample if textfile else one.name
        lines += [f"# HELP {family} {one.about}", f"# TYPE {family} {one.kind}"]
        lines += [f"{sample}{_braced(labels)} {_number(value)}" for labels, value in one.samples]
    return "\n".join([*lines, *([] if textfile else ["# EOF"]), ""])


def _braced(labels: Labels) -> str:
    written = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{written}}}" if written else ""


def _escaped(value: str) -> str:
    return printable(value).replace("\\", r"\\").replace('"', r"\"")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:.3f}"
