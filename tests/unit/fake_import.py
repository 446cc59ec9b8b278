# SPDX-License-Identifier: Apache-2.0
"""A host on which discoverctl imports the configuration of another tool, in a temporary directory."""

from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType

import pytest

from discoverd.cli.main import main
from discoverd.config.fabrics import load_fabrics
from discoverd.config.model import Connection, FabricsConfig

UUID = "1f0e3c5a-6f0b-4d5e-9b57-3c2f1d7a9e10"
HOST_NQN = f"nqn.2014-08.org.nvmexpress:uuid:{UUID}"
# Of another host.
OTHER_UUID = "2a9d3c5a-6f0b-4d5e-9b57-3c2f1d7a9e11"
OTHER_NQN = f"nqn.2014-08.org.nvmexpress:uuid:{OTHER_UUID}"


class ImportDesk:
    """Directories with the other tool's files, with ours, and with who the host is; ``importer`` is what runs."""

    def __init__(self, root: Path, importer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.source = root / "from"
        self.nvme = root / "nvme"
        self._verb = importer.__name__.rpartition(".")[2].replace("_", "-")
        self.source.mkdir()
        host = root / "host"
        host.mkdir()
        (host / "hostnqn").write_text(HOST_NQN + "\n")
        (host / "hostid").write_text(UUID + "\n")
        monkeypatch.setattr(importer, "_HOST", host)

    def run(self, *options: str) -> tuple[int, str, str]:
        """Import, and return the exit status, what was printed, and what was printed of errors."""
        output, errors = StringIO(), StringIO()
        with redirect_stdout(output), redirect_stderr(errors):
            status = main([self._verb, "--from", str(self.source), "--to", str(self.nvme), *options])
        return status, output.getvalue(), errors.getvalue()

    @property
    def fabrics(self) -> FabricsConfig:
        return load_fabrics(self.nvme / "nvme-fabrics.conf")

    @property
    def connection(self) -> Connection:
        (one,) = self.fabrics.connections
        return one

    def finding(self, output: str, name: str, line: int) -> str:
        """Return what the import said of a line in a file of the other tool's, which is one thing."""
        prefix = f"{self.source / name}:{line}: "
        (found,) = [text.removeprefix(prefix) for text in output.splitlines() if text.startswith(prefix)]
        return found
