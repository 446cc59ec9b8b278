# SPDX-License-Identifier: Apache-2.0
"""Python packages that others make, and what to do where one is not there."""

# The last of two that are tried; Debian has the first.
_FIRST = {"dbus_fast": "dbus-next"}


def missing(error: ImportError) -> str:
    """Return the end of a sentence: which package cannot be imported, why, and how to get it."""
    package = (error.name or "").partition(".")[0]
    package = _FIRST.get(package, package)
    return (
        f"the Python package {package} is missing or broken ({error}); install it, on Debian: "
        f"apt install python3-{package}"
    )
