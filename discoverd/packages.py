# SPDX-License-Identifier: Apache-2.0
"""Python packages that others make, and what to do where one is not there."""


def missing(error: ImportError) -> str:
    """Return the end of a sentence: which package cannot be imported, why, and how to get it."""
    package = (error.name or "").partition(".")[0]
    if package == "dbus_fast":
        # It is tried after dbus-next.
        what, package = "neither of the Python packages dbus-next and dbus-fast can be imported", "dbus-next"
    else:
        what = f"the Python package {package} cannot be imported"
    return f"{what} ({error}); install it, on Debian: apt install python3-{package}"
