# SPDX-License-Identifier: Apache-2.0
"""A request to discoverd that is a file: it is woken for it, and takes the file away once it has done it."""

import os
import socket
import time

from discoverd import state

# Less than store.CONFIRMATION_MAX_SECONDS.
TIMEOUT_SECONDS = 10.0
_POLL_SECONDS = 0.02


def tell(message: bytes, request: str) -> None:
    """Send a datagram to the wake socket, and wait until the file ``request`` is gone.

    Raises OSError where nobody hears it, TimeoutError where the file is still there after TIMEOUT_SECONDS.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(TIMEOUT_SECONDS)
        sender.sendto(message, state.WAKE_SOCKET)
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while os.path.exists(request):
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(_POLL_SECONDS)
