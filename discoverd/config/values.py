# SPDX-License-Identifier: Apache-2.0
"""From settings as a file gives them, by their keys and in canonical text, to what connections are made with."""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from . import keys
from .model import Persistent, Secrets

_TUNABLES = frozenset(key.name for key in keys.TUNABLES)
_FLAGS = frozenset(key.name for key in keys.SECURITY if key.kind == "bool")
_TEXTS = frozenset(key.name for key in keys.SECURITY if key.kind == "text")


def tunables(settings: Mapping[str, str], less_specific: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the tunables, with those of a less specific place where these settings say nothing. A reset is absent."""
    given = {name: value for name, value in settings.items() if name in _TUNABLES}
    return {name: value for name, value in {**(less_specific or {}), **given}.items() if value}


def persistent(settings: Mapping[str, str], less_specific: Persistent = "") -> Persistent:
    """Return ``persistent``, or that of a less specific place where these settings say nothing."""
    return cast(Persistent, settings.get("persistent", less_specific))


def secrets(settings: Mapping[str, str], less_specific: Secrets | None = None) -> Secrets:
    """Return the security parameters, with those of a less specific place where these settings say nothing."""
    flags = {name: settings[name] == "true" for name in settings if name in _FLAGS}
    texts = {name: settings[name] for name in settings if name in _TEXTS}
    given = {name.replace("-", "_"): value for name, value in {**flags, **texts}.items()}
    return replace(less_specific or Secrets(), **given)  # type: ignore[arg-type]
