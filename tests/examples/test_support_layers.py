"""The rooms of examples/support: imports run one way, and only programs stand above them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SUPPORT = EXAMPLES / "support"
MAX_LINES = 350

PROGRAMS = {
    "darts", "demo", "evaluate", "experiments", "generator", "hpo_ridge", "lfm_cw_darts",
    "sgl_darts",
}  # fmt: skip
#: Each room, and what it may import: rooms above it in this table.
ROOMS: dict[str, set[str]] = {
    "ranks": set(),
    "settings": set(),
    "data": {"settings"},
    "networks": {"settings"},
    "optimization": {"settings"},
    "results": {"settings"},
    "retraining": {"settings", "data", "networks", "results"},
    "search": {"ranks", "settings", "networks"},
    "pipeline": {"ranks", "settings", "data", "networks", "results", "retraining", "search"},
    "tables": {"settings", "results"},
    "launchers": {"tables"},
}
FILES = {
    ".".join(path.relative_to(EXAMPLES).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SUPPORT.rglob("*.py"))
}


def imports(name: str) -> set[str]:
    """Modules of examples/ that a module of support imports, for annotations as well."""
    found: set[str] = set()
    package = name if FILES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            parts = parts[: len(parts) + 1 - node.level] if node.level else []
            base = ".".join([*parts, *filter(None, [node.module])])
            inner = {f"{base}.{alias.name}" for alias in node.names}
            found |= {module if module in FILES else base for module in inner}
    return {module for module in found if module.partition(".")[0] in PROGRAMS | {"support"}}


def room(name: str) -> str:
    """The room of a module; "" for support itself."""
    return name.split(".")[1] if "." in name else ""


def test_only_programs_stand_at_the_top() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == PROGRAMS
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == {"configs", "experiments", "gallery", "support"}


def test_support_is_rooms() -> None:
    assert {path.name for path in SUPPORT.glob("*.py")} == {"__init__.py"}
    assert {room(name) for name in FILES} == {"", *ROOMS}


def test_the_rooms_are_in_order() -> None:
    order = list(ROOMS)
    for name, allowed in ROOMS.items():
        assert allowed <= set(order[: order.index(name)]), name


def test_modules_import_only_from_rooms_that_their_own_may_import() -> None:
    """And them through what they offer, not through their files; from no program."""
    for name, module in ((n, m) for n in FILES if room(n) for m in imports(n)):
        assert module.startswith("support."), f"{name} imports the program {module}"
        if room(module) != room(name):
            assert room(module) in ROOMS[room(name)], f"{name} imports {module}"
            assert module in FILES, f"{name} imports {module}"
            assert module.count(".") == 1, f"{name} imports {module}: import it from its room"


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_says_what_it_may_import(name: str) -> None:
    text = ast.get_docstring(ast.parse(FILES[f"support.{name}"].read_text(encoding="utf-8")))
    (said,) = re.findall(r"^May import: (.*)\.$", text or "", re.MULTILINE)
    assert said == (", ".join(other for other in ROOMS if other in ROOMS[name]) or "no other room")
    assert re.search(r"^Start with (\w+\.py)", text or "", re.MULTILINE)


@pytest.mark.parametrize("name", ROOMS)
def test_the_modules_of_a_room_import_in_no_circle(name: str) -> None:
    """The interface of the room imports all of them, and none of them it."""
    graph = {module: imports(module) & set(FILES) for module in FILES if room(module) == name}
    left = dict(graph)
    while left:
        free = [module for module, others in left.items() if not others & set(left)]
        assert free, f"these import one another: {sorted(left)}"
        for module in free:
            del left[module]


def test_files_are_short_enough_to_read() -> None:
    lines = {
        path.relative_to(EXAMPLES).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in EXAMPLES.rglob("*.py")
    }
    assert not {name: count for name, count in lines.items() if count > MAX_LINES}
