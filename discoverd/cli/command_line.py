# SPDX-License-Identifier: Apache-2.0
"""The command line of ``discoverctl``: its verbs, their options and what they are for.

It imports no verb, and little but argparse, so that ``--help`` costs what an interpreter and argparse cost
(tests/unit/test_cli_imports.py).
"""

import argparse

from discoverd import time_span
from discoverd.version import VERSION

TYPE_CHECKING = False

_WHICH = "an instance, unit, device, mount point, address[:port], subsystem NQN or a part of one, or a pattern of these"
_EXCLUDED = f"an exclusion, as in transport=tcp;traddr=192.0.2.1, or {_WHICH}"

# In which list can sort; discoverd.cli.order has how.
ORDERS = ("subsystem", "state", "device", "address", "since")
GOALS = ("live", "any-path", "gone")
# As discoverd.config.settings has them, whose import would be a cost; and what it says itself.
LEVELS = ("err", "warning", "info", "debug", "default")


def parser() -> argparse.ArgumentParser:
    """Return the parser; what it returns has the verb in ``verb``."""
    top = argparse.ArgumentParser(
        prog="discoverctl",
        description="Shows and changes the NVMe over Fabrics controllers of this host. See discoverctl(8).",
    )
    top.add_argument("--version", action="version", version=f"discoverctl {VERSION}", help="show the version, and end")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    _looks(verbs)
    _configuration(verbs)
    _acts(verbs)
    _exclusions(verbs)
    _imports(verbs)
    return top


if TYPE_CHECKING:
    # It has no public name.
    _Verbs = argparse._SubParsersAction[argparse.ArgumentParser]


def _looks(verbs: "_Verbs") -> None:
    one = verbs.add_parser("list", help="all controllers, whoever they belong to")
    one.add_argument("controller", nargs="*", metavar="CONTROLLER", help=f"only these: {_WHICH}")
    one.add_argument("-o", "--output", choices=("wide", "json", "name"), help="with more columns, or for programs")
    one.add_argument("--json", action="store_const", const="json", dest="output", help="the same as -o json")
    one.add_argument("--sort", choices=ORDERS, default=ORDERS[0], help="by this; else %(default)s")
    one.add_argument("--state", metavar="STATE[,STATE...]", default="", help="only those that are in such a state")
    one.add_argument("--watch", action="store_true", help="go on showing what changes, until it is interrupted")
    one.add_argument("--no-legend", action="store_true", help="leave out the titles and the count")
    _add_json(verbs.add_parser("topology", help="subsystems with their paths, namespaces, and what is on them"))
    one = verbs.add_parser("status", help="how discoverd is, or all about controllers")
    one.add_argument("controller", nargs="*", metavar="CONTROLLER", help=_WHICH)
    _add_json(one)
    one = verbs.add_parser("why", help="who asks for a controller, what was decided, and what would change it")
    one.add_argument("controller", nargs="+", metavar="CONTROLLER", help=_WHICH)
    _add_json(one)
    _add_json(verbs.add_parser("doctor", help="look for what is wrong on this host, and say what to do"))
    one = verbs.add_parser("log-page", help="what a discovery controller lists, and what became of each entry")
    one.add_argument("controller", nargs="+", metavar="CONTROLLER", help=f"a discovery controller: {_WHICH}")
    _add_json(one)
    one = verbs.add_parser("monitor", help="a line for each thing that happens to a controller, as it happens")
    _add_json(one)
    one = verbs.add_parser("wait", help="wait until controllers are live, or gone")
    one.add_argument("--for", dest="goal", choices=GOALS, default=GOALS[0], help="what is waited for (%(default)s)")
    one.add_argument("--timeout", type=_seconds, default=120.0, metavar="TIME", help="120 s by default, 0 for ever")
    one.add_argument("controller", nargs="*", metavar="CONTROLLER", help=f"all that is wanted by default; {_WHICH}")
    one = verbs.add_parser("metrics", help="how things are as OpenMetrics text")
    one.add_argument("--output", metavar="FILE", default="", help="write it to a file, in one step")


def _configuration(verbs: "_Verbs") -> None:
    one = verbs.add_parser("plan", help="what the configuration in its files would change, as a difference")
    one.add_argument("--config", metavar="DIR", help="instead of /etc/nvme")
    _add_json(one)
    one = verbs.add_parser("config", help="the configuration as it is read")
    parts = one.add_subparsers(dest="part", required=True, metavar="show")
    one = parts.add_parser("show", help="each value with file and line, without secrets")
    one.add_argument("--config", metavar="DIR", help="instead of /etc/nvme")
    _add_json(one)
    one = verbs.add_parser("identity", help="who this host is to its targets")
    parts = one.add_subparsers(dest="part", required=True, metavar="show|init|set-symname")
    _add_json(parts.add_parser("show", help="host NQN, host ID and symbolic name, and where they stand"))
    parts.add_parser("init", help="make the host NQN and the host ID where there is none")
    one = parts.add_parser("set-symname", help="the name by which discovery controllers show this host")
    one.add_argument("name", metavar="NAME", help="'' takes it away")
    one = verbs.add_parser("log", help="what discoverd writes to the journal, until the next boot")
    one.add_argument("level", choices=LEVELS, help="default is what the configuration says")


def _acts(verbs: "_Verbs") -> None:
    one = verbs.add_parser("connect", help="connect a controller that is not configured, until the next boot")
    one.add_argument("address", metavar="ADDRESS[:PORT]", help="where it is; an IPv6 address with a port in brackets")
    one.add_argument("nqn", nargs="?", default="", metavar="NQN", help="without one, a discovery controller")
    one.add_argument("--transport", choices=("tcp", "rdma", "fc"), default="tcp", help="%(default)s by default")
    one.add_argument("--host-iface", metavar="INTERFACE", default="", help="through this interface")
    one.add_argument("--host-traddr", metavar="ADDRESS", default="", help="from this address of this host")
    for verb, help_text in (
        ("restart", "disconnect and connect again; what is in use stays connected, and gets a new worker"),
        ("start", "start the units of controllers, and wait for the first attempt"),
        ("stop", "disconnect what is not in use, and keep it so until it is started or the host boots"),
        ("disconnect", "the same; with --force also what is in use, or belongs to another tool"),
    ):
        one = verbs.add_parser(verb, help=help_text)
        one.add_argument("controller", nargs="+", metavar="CONTROLLER", help=_WHICH)
    one.add_argument("--force", action="store_true", help="insist, though data may be lost")
    one = verbs.add_parser("confirm", help="disconnect now what a log page no longer lists and what is held back")
    one.add_argument("controller", nargs="+", metavar="CONTROLLER", help=f"a discovery controller: {_WHICH}")
    one.add_argument("--dry-run", action="store_true", help="only show what it would disconnect")


def _exclusions(verbs: "_Verbs") -> None:
    one = verbs.add_parser("exclude", help="have controllers not connected, whoever asks; the connected ones stay")
    one.add_argument("what", nargs="+", metavar="ENTRY|CONTROLLER", help=_EXCLUDED)
    one.add_argument("--dry-run", action="store_true", help="only show what it would hit")
    one.add_argument("--list", metavar="NAME", default="", help="the list exclusions.conf.d/NAME.conf")
    _add_json(one)
    one = verbs.add_parser("unexclude", help="take such exclusions out of all lists")
    one.add_argument("what", nargs="+", metavar="ENTRY|CONTROLLER", help=_EXCLUDED)


def _imports(verbs: "_Verbs") -> None:
    for verb, source, help_text in (
        ("import-stas", "/etc/stas", "turn nvme-stas's configuration into ours, and tell what does not fit"),
        ("import-nvme-cli", "/etc/nvme", "the same for nvme-cli 2's discovery.conf and config.json"),
    ):
        one = verbs.add_parser(verb, help=help_text)
        one.add_argument("--from", dest="source", metavar="DIR", help=f"instead of {source}")
        one.add_argument("--to", dest="target", metavar="DIR", help="instead of /etc/nvme")
        one.add_argument("--dry-run", action="store_true", help="write nothing, show what would be written")
        one.add_argument("--force", action="store_true", help="replace what an earlier import wrote, and keep a .bak")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")


def _seconds(text: str) -> float:
    try:
        return time_span.parse(text)
    except time_span.TimeSpanError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not {error}") from None
