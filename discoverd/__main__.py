# SPDX-License-Identifier: Apache-2.0
"""The command ``discoverd``: the supervisor, or with ``--check`` a look at the configuration."""

import argparse
import asyncio
import sys
from pathlib import Path

from discoverd.config.check import check

LIBEXEC = "/usr/libexec/discoverd"


def main(libexec: str = LIBEXEC) -> int:
    """Run what the command line asks for; ``libexec`` has the launchers of the other processes.

    Returns the exit status.
    """
    parser = argparse.ArgumentParser(
        prog="discoverd",
        description="Keeps one systemd unit per NVMe over Fabrics controller. See discoverd(8).",
    )
    parser.add_argument(
        "--check",
        nargs="*",
        metavar="FILE",
        type=Path,
        help="check the configuration, or only these files, and exit: 0 without errors, 1 with",
    )
    arguments = parser.parse_args()
    if arguments.check is not None:
        text, status = check(arguments.check)
        print(text, end="")  # noqa: T201
        return status
    # The check must work without the D-Bus and systemd packages.
    from discoverd.supervisor import Supervisor

    return asyncio.run(Supervisor(libexec).run())


if __name__ == "__main__":
    sys.exit(main())
