# SPDX-License-Identifier: Apache-2.0
"""Units and their signals against the real systemd, without a controller in them."""

import json
from pathlib import Path

from tests.lab.machine import Machine


def test_life_of_a_unit(host: Machine) -> None:
    host.put("/root/guest_units.py", Path(__file__).with_name("guest_units.py").read_text())
    result = json.loads(host.run("python3 /root/guest_units.py", timeout=240).stdout)
    assert result.pop("refused")
    assert result == {
        "start": ["started", "done", "loaded active"],
        "start again": ["running", "loaded active"],
        "stop": ["done", "loaded inactive"],
        "start the stopped one": ["started", "done", "loaded active"],
        "stop after the agent was replaced": ["done", "loaded inactive"],
        "released": None,
        "made stopped": ["started", "done", "loaded inactive"],
        "made again": ["running", "loaded inactive"],
        "released again": None,
    }
