# SPDX-License-Identifier: Apache-2.0
"""Every kind of storage by itself, rebooted and powered off, on the Debian that LAB_SUITE names.

Too long for every day: `make test-matrix` runs it on each Debian. One kind: -k lvm; one way: -k reboot.
"""

from collections.abc import Iterator

import pytest

from tests.lab import storage
from tests.lab.conftest import booted
from tests.lab.image import SUITE, Image
from tests.lab.machine import Machine


@pytest.fixture(scope="module", params=storage.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """One kind of storage, the only one on its machine."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def host(image: Image, kind: str) -> Iterator[Machine]:
    """The machine of one kind, with discoverd connected to its volumes."""
    with booted(image) as machine:
        storage.prepare(machine, storage.KINDS[kind])
        yield machine


def test_reboot(host: Machine, kind: str) -> None:
    storage.use(host, [kind])
    storage.reboot(host)
    storage.verify(host, storage.KINDS[kind])


def test_poweroff(host: Machine, kind: str) -> None:
    storage.use(host, [kind])
    storage.power_off(host, f"{SUITE}, {kind}")
    storage.verify(host, storage.KINDS[kind])


def test_poweroff_of_an_idle_machine(image: Image) -> None:
    """Only a measure, to compare the others with."""
    with booted(image) as machine:
        storage.TIMES.append((f"{SUITE}, nothing connected", machine.poweroff()))
