"""Genotypes as the authors' repositories print them, read without being run."""

from __future__ import annotations

import ast
import re
import warnings
from typing import Any

from mlopt._errors import SettingsError

__all__ = ["read_genotype_text"]

FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
_START = re.compile(r"(?:(\w+)[ \t]*=[ \t]*)?(?:\w+\.)*\bGenotype[ \t]*\(")
_LONGEST = 20_000  # characters of one genotype; a published one has 600
_MOST_STATES = 1000  # of a range


def read_genotype_text(text: str) -> dict[str, Any]:
    """Find `Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), ...)` in a text.

    The text may be that line alone, a line of a log, or a file of Python that names one genotype.
    Of several lines with one name, as a search logs them, the last one counts. Only literals and
    `range`, `list` and `tuple` of them are understood; nothing is evaluated.

    Args:
        text: of a file.

    Returns:
        The arguments, which are not checked yet.

    Raises:
        SettingsError: there is none, there are several of different names, or it is none of the
            above.
    """
    found = list(_START.finditer(text))
    if not found:
        raise SettingsError("It has no text `Genotype(normal=[...], normal_concat=..., ...)`.")
    names = dict.fromkeys(match[1] for match in found if match[1])
    if len(names) > 1:
        raise SettingsError(
            f"It has genotypes of different names ({', '.join(names)}). Give a file with one."
        )
    return _fields(_call(_expression(text[found[-1].end() :][:_LONGEST])))


def _expression(rest: str) -> str:
    """The text of the call whose arguments begin here: up to its closing bracket."""
    depth = 1
    for bracket in re.finditer(r"[()]", rest):
        depth += 1 if bracket[0] == "(" else -1
        if depth == 0:
            return f"Genotype({rest[: bracket.end()]}"
    raise SettingsError("`Genotype(` has no closing bracket.")


def _call(expression: str) -> ast.Call:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a stray backslash
            node = ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise SettingsError("`Genotype(...)` is no expression of Python.") from error
    assert isinstance(node, ast.Call)
    return node


def _fields(call: ast.Call) -> dict[str, Any]:
    given: dict[str, ast.expr] = {}
    for name, node in zip(FIELDS, call.args, strict=False):
        given[name] = node
    for keyword in call.keywords:
        given[str(keyword.arg)] = keyword.value
    if set(given) != set(FIELDS) or len(call.args) + len(call.keywords) != len(FIELDS):
        raise SettingsError(f"A genotype has the fields {list(FIELDS)}, not {list(given)}.")
    return {name: _value(node) for name, node in given.items()}


def _value(node: ast.expr) -> Any:
    """The value of a literal."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, int)):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Call) and not node.keywords:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        values = [_value(item) for item in node.args]
        if name in ("list", "tuple") and len(values) == 1 and isinstance(values[0], list):
            return values[0]
        if name == "range" and 1 <= len(values) <= 3 and all(type(v) is int for v in values):
            return _states(values)
    raise SettingsError(f"`{ast.unparse(node)[:60]}` is no literal, and nothing is run.")


def _states(arguments: list[int]) -> list[int]:
    try:
        states = range(*arguments)
        if len(states) <= _MOST_STATES:
            return list(states)
    except (ValueError, OverflowError):
        pass
    raise SettingsError(f"`range{tuple(arguments)}` is no range of a cell's states.")
