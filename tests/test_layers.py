"""Imports flow one way: from room to room, with no circle between files; islands stand apart."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mlopt"
MAX_LINES = 350

ISLANDS = {"nas", "generators", "data", "loggers", "report"}
# What an island may import of mlopt besides itself.
GROUND = {"_errors", "_arguments", "_batch_norm", "_files"}
ALLOWED = dict.fromkeys(ISLANDS, GROUND) | {"report": GROUND | {"loggers"}}

# The rooms from the ground up: each imports only itself and those before it, for annotations too.
ROOMS = [
    [
        "_errors",
        "_arguments",
        "_files",
        "_containers",
        "_batch_norm",
        "_foreign",
        "_tensors",
        "_replay",
        "_turn",
        "_variable",
    ],  # fmt: skip
    ["distributed"],
    ["solvers"],
    ["optim"],
    ["hypergrad"],
    ["_graph"],
    ["games"],
    ["_evaluation"],
    ["_sweep"],
    ["_engine"],
    ["penalty"],
    ["_audit"],
    ["loggers"],
    ["report"],
    ["nas"],
    ["generators"],
    ["data"],
]
FLOOR = {name: floor for floor, names in enumerate(ROOMS) for name in names}
MAX_ROOT_FILES = 8

FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


@functools.cache
def imports(module: str, path: Path) -> set[str]:
    """Modules of mlopt that the file imports anywhere, for annotations as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {resolve(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = node.level - (path.name == "__init__.py")
                package = module.split(".")[: len(module.split(".")) - up]
                base = ".".join([*package, base] if base else package)
            found |= {resolve(f"{base}.{alias.name}") for alias in node.names}
    return {name for name in found if name} - {module}


def resolve(name: str) -> str:
    """The longest part of a dotted name that is a module of mlopt; empty outside of mlopt."""
    parts = name.split(".")
    if parts[0] != "mlopt":
        return ""
    while len(parts) > 1 and ".".join(parts) not in MODULES:
        parts.pop()
    return ".".join(parts)


def part(module: str) -> str:
    """The first name below mlopt: `nas` for mlopt.nas.cells; empty for mlopt itself."""
    return module.split(".")[1] if "." in module else ""


def test_files_are_short_enough_to_read() -> None:
    lines = {module: len(path.read_text("utf-8").splitlines()) for module, path in MODULES.items()}
    long = {module: count for module, count in lines.items() if count > MAX_LINES}
    assert not long, f"more than {MAX_LINES} lines: split them: {long}"


def found_wrong(wrong: Callable[[str, str], bool]) -> list[str]:
    """Every import of a module, of those that `wrong(module, imported)` says are."""
    return [
        f"{module} imports {name}"
        for module, path in MODULES.items()
        for name in sorted(imports(module, path))
        if wrong(module, name)
    ]


def test_islands_import_nothing_of_the_core() -> None:
    def wrong(module: str, name: str) -> bool:
        island = part(module)
        return island in ISLANDS and part(name) not in ALLOWED[island] | {island}

    assert not found_wrong(wrong)


def test_core_imports_no_island() -> None:
    """It works without them."""
    assert not found_wrong(lambda m, name: part(m) not in ISLANDS and part(name) in ISLANDS)


def test_every_file_is_in_a_room_that_is_listed() -> None:
    parts = {part(module) for module in MODULES} - {""}
    assert parts == set(FLOOR), "list the room in ROOMS, at its floor"


def test_few_files_lie_at_the_root() -> None:
    files = sorted(path.name for path in PACKAGE.glob("*.py"))
    assert len(files) <= MAX_ROOT_FILES, f"{files}: a file belongs in a room"


def test_rooms_import_only_those_before_them() -> None:
    def climbs(module: str, name: str) -> bool:
        return bool(part(module) and part(name)) and FLOOR[part(name)] > FLOOR[part(module)]

    assert not found_wrong(climbs), "these stand above them in ROOMS"


@pytest.mark.parametrize("room", [names[0] for names in ROOMS[1:]])
def test_room_says_what_lives_there(room: str) -> None:
    path = PACKAGE / room / "__init__.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert "mports" in text, f"{path}: say what the room may import"
    assert "Start reading at" in text, f"{path}: say where to start reading"
    for name in re.findall(r"`([\w/]+\.py)`", text):
        assert (path.parent / name).exists() or (PACKAGE / name).exists(), f"{path}: {name}"


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {name: imports(name, path) for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        if module in trail:
            circle = [*trail[trail.index(module) :], module]
            pytest.fail("import cycle: " + " -> ".join(circle))
        if module in done or module not in graph:
            return
        for other in sorted(graph[module]):
            visit(other, (*trail, module))
        done.add(module)

    for module in sorted(graph):
        visit(module, ())
