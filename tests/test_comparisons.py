"""No test compares numbers past `compare.py`: raw comparisons and bounds by hand are found."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent

#: Of other libraries; bit equality (`torch.equal`, `assert_array_equal`) is not among them.
RAW = {
    "approx", "assert_close", "allclose", "isclose", "assert_allclose", "assert_almost_equal",
    "assert_array_almost_equal", "assert_approx_equal", "assertAlmostEqual",
}  # fmt: skip
#: What measures a difference, where its arguments do not say so themselves.
MEASURES = {"relative_error", "relative", "difference", "error", "distance", "true_residual"}
#: What gives a size.
SIZES = {"abs", "norm", "vector_norm", "max", "fabs", "hypot"}

FILES = [
    path
    for path in sorted(TESTS.rglob("*.py"))
    if path.name not in ("compare.py", "test_comparisons.py")
]


def raw(tree: ast.AST) -> list[str]:
    """Where a comparison of another library is named, and which."""
    found = []
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Name):
            names = [node.id]
        elif isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
        found += [f"line {node.lineno}: {name}" for name in names if name in RAW]
    return found


def by_hand(tree: ast.AST) -> list[str]:
    """Where it is asserted that a difference, or what is tiny, is below some number.

    A loss that fell, a count below a limit, an error below another one: `a < b`, `n < 5` pass.
    """
    found = []
    for statement in ast.walk(tree):
        if not isinstance(statement, ast.Assert):
            continue
        for node in ast.walk(statement.test):
            if isinstance(node, ast.Compare) and any(bounds(*pair) for pair in pairs(node)):
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def pairs(node: ast.Compare) -> list[tuple[ast.expr, ast.expr]]:
    """(less, greater) of each comparison of a chain."""
    sides, out = [node.left, *node.comparators], []
    for left, operator, right in zip(sides, node.ops, sides[1:], strict=False):
        if isinstance(operator, ast.Lt | ast.LtE):
            out.append((left, right))
        elif isinstance(operator, ast.Gt | ast.GtE):
            out.append((right, left))
    return out


def bounds(less: ast.expr, greater: ast.expr) -> bool:
    bound = number(greater)
    if bound is not None:
        return number(less) is None and (0 < bound < 1e-2 or measures(less))
    return (
        measures(less)
        and not measures(greater)
        and any(
            number(part) is not None for part in ast.walk(greater) if isinstance(part, ast.expr)
        )
    )


def number(node: ast.expr) -> float | None:
    """A literal, signed or not."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = number(node.operand)
        return None if value is None else -value
    literal = isinstance(node, ast.Constant) and type(node.value) in (int, float)
    return float(node.value) if literal else None


def measures(node: ast.expr) -> bool:
    """Whether it is the size of a difference."""
    for part in ast.walk(node):
        if isinstance(part, ast.Call):
            called = part.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            sized = [*part.args, called.value] if isinstance(called, ast.Attribute) else part.args
            differs = any(
                isinstance(x, ast.BinOp) and isinstance(x.op, ast.Sub)
                for argument in sized
                for x in ast.walk(argument)
            )
            if name in MEASURES or (name in SIZES and differs):
                return True
    return False


def test_numbers_are_compared_by_the_one_helper() -> None:
    found = []
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        place = path.relative_to(TESTS).as_posix()
        found += [f"{place}, {x}: use `exact` or `near`, or bit equality" for x in raw(tree)]
        found += [f"{place}, {x}: a bound follows from an argument" for x in by_hand(tree)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "torch.testing.assert_close(a, b)", "assert a == pytest.approx(b)", "np.allclose(a, b)",
        "from math import isclose", "assert error < 1e-9", "assert (a - b).abs().max() <= 0.1",
        "assert 0 < torch.linalg.vector_norm(a - b) < 3 * tolerance", "assert 1e-3 > loss",
        "assert relative_error(a, b) < 0.5", "assert all(x.norm() < 1e-6 for x in xs)",
    ],
)  # fmt: skip
def test_what_is_found(line: str) -> None:
    assert raw(ast.parse(line)) + by_hand(ast.parse(line))


@pytest.mark.parametrize(
    "line",
    [
        "exact(a, b, rounding(5))", "assert torch.equal(a, b)", "assert loss < 0.1 * before",
        "assert (a - b).norm() > 1e-6", "assert count < 5", "assert steps <= 0.5 * most",
        "assert (a - b).norm() < 0.5 * (c - b).norm()", "x = relative_error(a, b) < 0.1",
    ],
)  # fmt: skip
def test_what_passes(line: str) -> None:
    assert raw(ast.parse(line)) + by_hand(ast.parse(line)) == []
