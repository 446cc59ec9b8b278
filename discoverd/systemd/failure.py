# SPDX-License-Identifier: Apache-2.0
"""What an error of pystemd says: its name, and its sentence."""

import os
from typing import Any


def name(error: Any) -> str:
    """Return the name of the bus's error, '' where the call did not get as far as the bus."""
    return _text(error.err_name)


def sentence(error: Any) -> str:
    """Return what systemd, the bus or the library says, without a full stop.

    pystemd has bytes of what the bus has said; where it does not reach the bus it has a text of its own, which does not
    say why.
    """
    if isinstance(error.err_message, str) and error.err_message and error.errno:
        return f"{error.err_message.rstrip('.')}: {os.strerror(abs(error.errno))}"
    return (_text(error.err_message) or name(error) or str(error)).rstrip(".")


def _text(value: bytes | str | None) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""
