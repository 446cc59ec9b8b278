# SPDX-License-Identifier: Apache-2.0
"""The worker's entry: ``nvme-ctrl-worker INSTANCE``. Its unit is Type=notify."""

import sys

from discoverd import notify, registry, state
from discoverd.worker.loop import Loop

EXIT_USAGE = 2
EXIT_NO_SPEC = 3


def main() -> int:
    """Own one controller until told to stop. Returns the exit status: 0 after a stop, 3 without a specification."""
    if len(sys.argv) != 2 or "/" in sys.argv[1]:
        sys.stderr.write("usage: nvme-ctrl-worker INSTANCE   (discoverd starts it; see nvme-ctrl@.service(8))\n")
        return EXIT_USAGE
    instance = notify.subject = sys.argv[1]
    # What the worker before it has left, if it was killed; the supervisor may not start for a long time.
    registry.sweep()
    try:
        state.sweep(state.directory(instance))
    except OSError:
        pass  # Then there is no specification either.
    try:
        spec = state.Spec.decode(state.read(state.directory(instance) + "/spec"))
    except state.StateError as error:
        text = f"no usable specification ({error}): restart discoverd.service, which writes it"
        notify.status(text)
        notify.log(notify.ERROR, text)
        return EXIT_NO_SPEC
    return Loop(instance, spec).run()
