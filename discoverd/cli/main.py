# SPDX-License-Identifier: Apache-2.0
"""The command ``discoverctl``: arguments, the verbs, and how errors end it."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from discoverd.cli import choose, confirm, disconnect, doctor, exclude, import_stas, jobs, listing, status, text, why
from discoverd.cli import overview as overviews
from discoverd.cli.exits import CliError, Exit
from discoverd.cli.systemd import Systemd

_WHICH = "an instance, a unit, a kernel device (nvme3), or a subsystem NQN for all its paths"
_EXCLUDED = f"an exclusion, as in transport=tcp;traddr=192.0.2.1, or {_WHICH}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, the process's own by default. Returns the exit status."""
    asked = _parser().parse_args(arguments)
    try:
        try:
            result = _run(asked)
            sys.stdout.flush()
        except CliError as error:
            text.remark(str(error))
            result = error.exit_status
    except BrokenPipeError:
        # Whoever reads has had enough. Python's own flush at the end would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    except PermissionError as error:
        text.remark(f"not permitted ({error.filename or error.strerror}); run it as root")
        return Exit.NOT_PERMITTED
    except OSError as error:
        text.remark(f"{error.filename or 'output'}: {error.strerror or error}; mend that and try again")
        return Exit.FAILED
    except KeyboardInterrupt:
        text.remark("interrupted; what was asked of systemd goes on: systemctl list-jobs")
        return 130
    return result


def _run(asked: argparse.Namespace) -> Exit:
    if asked.verb == "import-stas":
        return import_stas.run(Path(asked.source), Path(asked.target), asked.dry_run, asked.force)
    if os.geteuid():
        raise CliError("this needs the state in /run/discoverd; run it as root", Exit.NOT_PERMITTED)
    systemd = Systemd()
    overview = overviews.look(systemd)
    if asked.verb == "list":
        return listing.show(overview, asked.json, not asked.no_legend)
    if asked.verb == "doctor":
        return doctor.examine(overview, systemd, asked.json)
    if asked.verb == "why":
        return why.explain(asked.controller, overview, asked.json)
    if asked.verb == "status":
        if asked.controller is None:
            return status.daemon(overview, systemd, asked.json)
        return status.controllers(choose.choose([asked.controller], overview), asked.json)
    if asked.verb == "exclude":
        return exclude.exclude(asked.what, overview, asked.list, asked.dry_run, asked.json)
    if asked.verb == "unexclude":
        return exclude.unexclude(asked.what, overview)
    chosen = choose.choose(asked.controller, overview)
    if asked.verb == "confirm":
        return confirm.confirm(chosen, overview.plan, asked.dry_run)
    if asked.verb == "start":
        return jobs.start(chosen, systemd)
    if asked.verb == "stop":
        return jobs.stop(chosen, systemd)
    return disconnect.disconnect(chosen, systemd, asked.force)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="discoverctl",
        description="Shows and changes the NVMe over Fabrics controllers of this host. See discoverctl(8).",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    one = verbs.add_parser("list", help="a line for each controller, whoever it belongs to")
    one.add_argument("--no-legend", action="store_true", help="leave out the titles and the count")
    _add_json(one)
    one = verbs.add_parser("status", help="how discoverd is, or all about a controller")
    one.add_argument("controller", nargs="?", metavar="CONTROLLER", help=_WHICH)
    _add_json(one)
    one = verbs.add_parser("why", help="who asks for a controller, what was decided, and what would change it")
    one.add_argument("controller", metavar="CONTROLLER", help=_WHICH)
    _add_json(one)
    _add_json(verbs.add_parser("doctor", help="look for what is wrong on this host, and say what to do"))
    for verb, help_text in (
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
    one = verbs.add_parser("exclude", help="have controllers not connected, whoever asks; the connected ones stay")
    one.add_argument("what", nargs="+", metavar="ENTRY|CONTROLLER", help=_EXCLUDED)
    one.add_argument("--dry-run", action="store_true", help="only show what it would hit")
    one.add_argument("--list", metavar="NAME", default="", help="the list exclusions.conf.d/NAME.conf")
    _add_json(one)
    one = verbs.add_parser("unexclude", help="take such exclusions out of all lists")
    one.add_argument("what", nargs="+", metavar="ENTRY|CONTROLLER", help=_EXCLUDED)
    one = verbs.add_parser("import-stas", help="turn nvme-stas's configuration into ours, and tell what does not fit")
    one.add_argument("--from", dest="source", metavar="DIR", default=import_stas.SOURCE, help="instead of %(default)s")
    one.add_argument("--to", dest="target", metavar="DIR", default=import_stas.TARGET, help="instead of %(default)s")
    one.add_argument("--dry-run", action="store_true", help="write nothing, show what would be written")
    one.add_argument("--force", action="store_true", help="replace what an earlier import wrote, and keep it as .bak")
    return parser


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")


if __name__ == "__main__":
    sys.exit(main())
