# SPDX-License-Identifier: Apache-2.0
"""The wall around the worker: what it may import, and how many modules that makes.

A host has hundreds of workers, so each module that one of them imports is paid for hundreds of times.
"""

import ast
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import discoverd

PACKAGE = Path(discoverd.__file__).parent
# What of the kernel only the supervisor needs.
SUPERVISORS = ("addresses.py", "inotify.py", "interfaces.py", "nbft.py")
INSIDE = sorted(
    [
        *PACKAGE.glob("worker/*.py"),
        *(path for path in PACKAGE.glob("kernel/*.py") if path.name not in SUPERVISORS),
        PACKAGE / "boot_record.py",
        PACKAGE / "exclusions.py",
        PACKAGE / "notify.py",
        PACKAGE / "registry.py",
        PACKAGE / "state.py",
        PACKAGE / "mounts/watcher.py",
        PACKAGE / "mounts/units.py",
    ]
)
# Built into the interpreter, or C code without a Python half.
OUTSIDE = {
    *(
        "_ctypes",
        "_signal",
        "_socket",
        "_struct",
        "_thread",
        "binascii",
        "errno",
        "fcntl",
        "gc",
        "posix",
        "select",
        "sys",
    ),
    "time",
}
MOST_MODULES = 40
FORBIDDEN = {
    "asyncio",
    "collections",
    "ctypes",
    "dataclasses",
    "enum",
    "json",
    "logging",
    "os",
    "re",
    "signal",
    "site",
    "socket",
    "struct",
    "subprocess",
    "threading",
    "typing",
}


def modules(*imported: str) -> set[str]:
    """Return what a worker's interpreter has loaded after these imports.

    From a file that begins as the launchers do: for code that is given with -c, Python 3.13 and later load more.
    """
    head, _, _ = (PACKAGE / "launchers/nvme-ctrl-worker.in").read_text().partition("from discoverd")
    code = f"{head.replace('@PACKAGE_DIR@', str(PACKAGE.parent))}import {', '.join(imported)}\nprint(*sys.modules)\n"
    with tempfile.NamedTemporaryFile("w", prefix="nvme-ctrl-worker.") as launcher:
        launcher.write(code)
        launcher.flush()
        command = ["/usr/bin/python3", "-I", "-S", launcher.name]
        return set(subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.split())


def imports(node: ast.AST) -> Iterator[str]:
    """Give the name of each module that the code imports when it runs, wherever in it."""
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "a relative import hides what it imports"
        assert node.module
        for alias in node.names:
            below = PACKAGE.parent / node.module.replace(".", "/") / alias.name
            yield f"{node.module}.{alias.name}" if below.with_suffix(".py").exists() else node.module
    for child in ast.iter_child_nodes(node):
        yield from imports(child)


@pytest.mark.parametrize("path", INSIDE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_workers_import_only_c_modules_and_each_other(path: Path) -> None:
    inside = {".".join(one.relative_to(PACKAGE.parent).with_suffix("").parts) for one in INSIDE}
    assert set(imports(ast.parse(path.read_text()))) - OUTSIDE - inside == set()


def test_the_walk_sees_imports_in_functions() -> None:
    tree = ast.parse("def f():\n    from discoverd.kernel import routes\n    import os.path\n")
    assert list(imports(tree)) == ["discoverd.kernel.routes", "os.path"]


def test_an_io_worker_has_few_modules() -> None:
    # It reads the exclusions before each attempt to connect, and connects.
    loaded = modules("discoverd.worker.main", "discoverd.exclusions", "discoverd.kernel.fabrics")
    assert len(loaded) <= MOST_MODULES, sorted(loaded)
    assert loaded & FORBIDDEN == set()


def test_a_discovery_worker_and_a_waiting_one_import_nothing_heavy() -> None:
    loaded = modules(
        "discoverd.worker.main", "discoverd.worker.discovery", "discoverd.worker.links", "discoverd.kernel.routes"
    )
    assert loaded & FORBIDDEN == set(), sorted(loaded)


def test_a_disconnecting_worker_imports_nothing_heavy() -> None:
    loaded = modules("discoverd.worker.main", "discoverd.worker.disconnect")
    assert loaded & FORBIDDEN == set(), sorted(loaded)


def test_the_fork_server_imports_nothing_heavy() -> None:
    """And all that workers import, before they do: what it has not loaded, each of them would load for itself."""
    loaded = modules("discoverd.worker.fork_server")
    assert loaded & FORBIDDEN == set(), sorted(loaded)
    theirs = [one for one in INSIDE if one.parent.name in ("worker", "kernel") or one.parent == PACKAGE]
    names = {".".join(one.relative_to(PACKAGE.parent).with_suffix("").parts) for one in theirs}
    assert names - loaded == {"discoverd.boot_record", "discoverd.worker.__init__", "discoverd.kernel.__init__"}


def test_the_process_that_watches_mounts_is_as_thin() -> None:
    loaded = modules("discoverd.mounts.watcher")
    assert loaded & FORBIDDEN == set(), sorted(loaded)
    assert len(loaded) <= MOST_MODULES, sorted(loaded)


def test_the_record_of_the_boot_is_made_by_a_thin_process() -> None:
    loaded = modules("discoverd.boot_record")
    assert loaded & FORBIDDEN == set(), sorted(loaded)
    assert len(loaded) <= MOST_MODULES, sorted(loaded)


@pytest.mark.parametrize(
    "later",
    [
        "worker.discovery",
        "worker.discovery_controller",
        "worker.registration",
        "kernel.dim",
        "worker.links",
        "worker.disconnect",
        "worker.interrogation",
        "worker.cause",
        "kernel.admin",
        "kernel.block",
        "kernel.claims",
        "kernel.disconnect",
        "kernel.mounts",
        "kernel.openers",
        "kernel.paths",
        "kernel.usage",
        "kernel.routes",
        "kernel.spawn",
        "kernel.locks",
        "kernel.dhchap",
        "kernel.fabrics",
        "kernel.hosts",
    ],
)
def test_module_that_few_workers_need_is_imported_by_those_only(later: str) -> None:
    assert (PACKAGE / f"{later.replace('.', '/')}.py").exists()
    assert f"discoverd.{later}" not in modules("discoverd.worker.main")
