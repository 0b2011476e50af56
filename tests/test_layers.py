"""Imports flow one way: islands know nothing of the core, the core has ranks, no circles."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mlopt"
MAX_LINES = 350

ISLANDS = {"nas", "generators", "data", "loggers", "report"}
# What an island may import of mlopt besides itself.
ALLOWED = dict.fromkeys(ISLANDS, {"_errors"}) | {"report": {"_errors", "loggers"}}

# A core module imports from its own rank or from a lower one; names are those right below mlopt.
# A module that is not listed may import anything that does not make a circle.
RANKS = {
    name: rank
    for rank, names in enumerate(
        [
            ["_errors", "_tensors", "_replay"],
            ["solvers", "optim", "distributed"],
            ["_node", "_variable", "_signal", "_problem", "_stream", "_hypergrad"],
            ["_point", "_graph", "_products", "_sweep", "hypergrad"],
            ["_schedule", "_engine", "_callback", "_checkpoint", "_plan", "_audit"],
            ["interop"],
        ]
    )
    for name in names
}

FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imports(module: str, path: Path, *, types: bool) -> set[str]:
    """Modules of mlopt that the file imports anywhere; with `types`, for annotations as well."""
    found = set()
    stack: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not types:
            stack.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            found |= {resolve(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = node.level - (path.name == "__init__.py")
                package = module.split(".")[: len(module.split(".")) - up]
                base = ".".join([*package, base] if base else package)
            found |= {resolve(f"{base}.{alias.name}") for alias in node.names}
        stack.extend(ast.iter_child_nodes(node))
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


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_file_is_short_enough_to_read(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{path.name} has {lines} lines, more than {MAX_LINES}: split it"


@pytest.mark.parametrize("module", [name for name in MODULES if part(name) in ISLANDS])
def test_island_imports_nothing_of_the_core(module: str) -> None:
    island = part(module)
    wrong = {
        name
        for name in imports(module, MODULES[module], types=True)
        if part(name) not in ALLOWED[island] | {island}
    }
    assert not wrong, f"{module} is part of an island but imports {sorted(wrong)}"


@pytest.mark.parametrize("module", [name for name in MODULES if part(name) not in ISLANDS])
def test_core_imports_no_island(module: str) -> None:
    wrong = {name for name in imports(module, MODULES[module], types=True) if part(name) in ISLANDS}
    assert not wrong, f"{module} imports {sorted(wrong)}: the core works without its islands"


@pytest.mark.parametrize("module", [name for name in MODULES if part(name) in RANKS])
def test_core_imports_only_its_own_rank_and_lower_ones(module: str) -> None:
    rank = RANKS[part(module)]
    wrong = {
        name
        for name in imports(module, MODULES[module], types=False)
        if RANKS.get(part(name), rank) > rank
    }
    assert not wrong, f"{module} (rank {rank}) imports upwards: {sorted(wrong)}"


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {name: imports(name, path, types=False) for name, path in MODULES.items()}
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
