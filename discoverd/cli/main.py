# SPDX-License-Identifier: Apache-2.0
"""The command ``discoverctl``: it understands the command line, runs a verb, and says how errors end it."""

import io
import os
import sys
from collections.abc import Sequence

from discoverd.cli import command_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, the process's own by default. Returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What a locale has no character for is no reason to say nothing.
            stream.reconfigure(errors="backslashreplace")
    asked = command_line.parser().parse_args(arguments)
    # Not needed by who asks for help.
    from discoverd.cli import text
    from discoverd.cli.exits import CliError, Exit

    try:
        try:
            result = _run(asked)
            sys.stdout.flush()
        except CliError as error:
            text.remark(str(error), error.lines)
            result = error.exit_status
    except BrokenPipeError:
        # Whoever reads has had enough.
        _give_up_output()
        return Exit.FAILED
    except PermissionError as error:
        text.remark(f"not permitted ({error.filename or error.strerror}); run it as root")
        return Exit.NOT_PERMITTED
    except OSError as error:
        _give_up_output()
        text.remark(f"{error.filename or 'output'}: {error.strerror or error}; mend that and try again")
        return Exit.FAILED
    except KeyboardInterrupt:
        text.remark("interrupted; what was asked of systemd goes on: systemctl list-jobs")
        return 130
    return result


def _give_up_output() -> None:
    """Have written nowhere what cannot be written: Python's own flush at the end would complain in its own way."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(asked: "Namespace") -> int:
    from discoverd.cli import verbs

    return verbs.run(asked)


if __name__ == "__main__":
    sys.exit(main())
