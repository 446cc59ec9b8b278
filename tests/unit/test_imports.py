# SPDX-License-Identifier: Apache-2.0
"""Modules stand on each other: none imports one that imports it, however far around, and neither do packages."""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import discoverd

ROOT = Path(discoverd.__file__).parents[1]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted((ROOT / "discoverd").rglob("*.py"))
    if path.name != "__init__.py"
}


def imported(tree: ast.AST) -> Iterator[str]:
    """Give the modules of ours that the code imports anywhere, also only for types."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
            yield from names & FILES.keys()


def graph() -> dict[str, set[str]]:
    return {name: set(imported(ast.parse(path.read_text()))) - {name} for name, path in FILES.items()}


def package(module: str) -> str:
    """Return the package a module is in; what lies loose at the top stands for itself."""
    parts = module.split(".")
    return ".".join(parts[:2])


def circle(edges: Mapping[str, set[str]]) -> list[str]:
    """Return the modules of a circle, none if there is none."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_modules_import_no_circle() -> None:
    assert circle(graph()) == []


def test_packages_import_no_circle() -> None:
    edges: dict[str, set[str]] = {}
    for module, others in graph().items():
        above = package(module)
        edges.setdefault(above, set()).update(package(other) for other in others if package(other) != above)
    assert circle(edges) == []


def test_worker_and_supervisor_meet_in_their_files_only() -> None:
    for module, others in graph().items():
        if package(module) == "discoverd.worker":
            assert {package(other) for other in others} & {
                "discoverd.supervisor",
                "discoverd.plan",
                "discoverd.sources",
            } == set()
        if package(module) in ("discoverd.supervisor", "discoverd.plan", "discoverd.sources"):
            assert "discoverd.worker" not in {package(other) for other in others}


@pytest.mark.parametrize(
    ("process", "loads"),
    [("discoverd.api.main", False), ("discoverd.api.action", False), ("discoverd.supervisor.daemon", True)],
)
def test_api_has_no_second_dbus_library(process: str, loads: bool) -> None:
    edges, reached, ahead = graph(), set(), [process]
    while ahead:
        reached.add(module := ahead.pop())
        ahead += edges[module] - reached
    assert ("discoverd.bus.client" in reached) == loads


@pytest.mark.parametrize("edges", [{"a": {"b"}, "b": {"a"}}, {"a": {"b"}, "b": {"c"}, "c": {"a"}}])
def test_circle_is_found(edges: dict[str, set[str]]) -> None:
    assert circle(edges)
