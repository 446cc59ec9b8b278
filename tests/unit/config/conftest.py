# SPDX-License-Identifier: Apache-2.0
"""Configuration from text, without a disk."""

from collections.abc import Callable

import pytest

from discoverd.config.fabrics import parse_fabrics
from discoverd.config.model import FabricsConfig
from discoverd.config.sources import SourceFile

Fabrics = Callable[..., FabricsConfig]


@pytest.fixture(scope="session")
def fabrics() -> Fabrics:
    """Parse the text of a main file (None: there is none) and of drop-ins d0, d1, …"""

    def parse(main: str | bytes | None, *drop_ins: str, mode: int = 0o600) -> FabricsConfig:
        sources = []
        if main is not None:
            data = main if isinstance(main, bytes) else main.encode()
            sources.append(SourceFile("main", data, mode))
        for number, text in enumerate(drop_ins):
            sources.append(SourceFile(f"d{number}", text.encode(), mode, drop_in=True))
        return parse_fabrics(sources)

    return parse
