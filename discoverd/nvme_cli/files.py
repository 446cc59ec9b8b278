# SPDX-License-Identifier: Apache-2.0
"""The two files of nvme-cli 2 together, in the order in which it goes through them."""

from collections.abc import Mapping

from discoverd.config.finding import Finding, Findings
from discoverd.config.sources import SourceFile

from . import config_json, discovery_conf
from .entry import TOOL, Entry

NAMES = (config_json.NAME, discovery_conf.NAME)
_READERS = {config_json.NAME: config_json.read, discovery_conf.NAME: discovery_conf.read}


def entries(files: Mapping[str, SourceFile]) -> tuple[list[Entry], list[Finding]]:
    """Return what the files ask for, by those of NAMES that exist, and what there is to say about them. Pure."""
    found: list[Entry] = []
    told: list[Finding] = []
    for name in NAMES:
        if name in files:
            findings = Findings(files[name].path, TOOL)
            found += _READERS[name](files[name], findings)
            told += findings.found
    return found, told
