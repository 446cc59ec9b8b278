# SPDX-License-Identifier: Apache-2.0
"""Serves a fabric of discovery controllers until SIGTERM or SIGINT."""

import argparse
import asyncio
import contextlib
import json
import os
import shlex
import signal
import sys
from pathlib import Path

from . import control
from .fabric import Fabric, Instance
from .orders import OrderError, Orders, fill
from .server import Server


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cdc", description=__doc__)
    parser.add_argument("--fabric", type=Path, metavar="FILE", help="JSON description; without one: a CDC on port 8009")
    parser.add_argument("--address", default="127.0.0.1", help="of the CDC where there is no description")
    parser.add_argument("--control", type=Path, metavar="SOCKET", help="Unix socket that takes orders")
    parser.add_argument("--announcements", action="store_true", help="print the commands that announce it, and end")
    return parser.parse_args()


def announcement(instance: Instance) -> str:
    """The command that announces an instance in DNS-SD (NVMe TCP Transport Specification, TP8009)."""
    command = ["avahi-publish", "--service"]
    if instance.dctype == "cdc":
        command += ["--subtype", "_cdc._sub._nvme-disc._tcp"]
    command += [instance.name, "_nvme-disc._tcp", str(instance.port), "p=tcp", f"nqn={instance.identity}"]
    return shlex.join(command)


async def serve(fabric: Fabric, socket: Path | None) -> None:
    """Serves, and says READY=1 to a service manager and `listening` to anybody else."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Server(fabric) as server, contextlib.AsyncExitStack() as stack:
        orders = Orders(server)
        stack.push_async_callback(orders.end)
        if socket is not None:
            stack.callback((await control.serve(orders, socket)).close)
        for instance in fabric.instances.values():
            print(f"{instance.name}: listening on {instance.address}:{instance.port}", flush=True)
        _ready()
        await stop.wait()


def _ready() -> None:
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        import socket

        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
            notify.send(b"READY=1")


def main() -> None:
    options = arguments()
    fabric = Fabric()
    try:
        model = json.loads(options.fabric.read_text()) if options.fabric else {}
        fill(fabric, {"instances": {"cdc": {"address": options.address}}} | model)
    except (OSError, ValueError, TypeError, OrderError) as error:
        sys.exit(f"cdc: {options.fabric}: {error}")
    if options.announcements:
        print("\n".join(announcement(instance) for instance in fabric.instances.values()))
        return
    try:
        asyncio.run(serve(fabric, options.control))
    except OSError as error:
        sys.exit(f"cdc: {error}")


if __name__ == "__main__":
    main()
