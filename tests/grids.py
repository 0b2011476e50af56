"""Grids of cases, of which every run takes a part."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytest


def thinned(n: int, *axes: Iterable[Any], first: int = 0) -> list[Any]:
    """All cells of a grid for `parametrize`, of which every n-th diagonal is in every run.

    The others are slow. Each member of an axis is in every run if another axis has n members or
    more.

    Args:
        n: how many diagonals there are to one that stays.
        axes: the members of each axis, in the order of the test's arguments.
        first: which of the diagonals stays: another one for another test of the same grid.

    Returns:
        One `pytest.param` for each cell.
    """
    cells = itertools.product(*(enumerate(axis) for axis in axes))
    return [
        pytest.param(
            *(member for _, member in cell),
            marks=() if (sum(i for i, _ in cell) - first) % n == 0 else pytest.mark.slow,
        )
        for cell in cells
    ]
