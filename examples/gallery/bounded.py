"""Numbers within bounds: types of arguments, by which argparse refuses what makes no sense."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def whole(least: int, most: float = math.inf) -> Callable[[str], int]:
    """A whole number of a range."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is no whole number {_range(least, most)}")
        return value

    return number


def real(least: float, most: float = math.inf) -> Callable[[str], float]:
    """A number of a range, and finite."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most or math.isinf(value):
            raise argparse.ArgumentTypeError(f"{text} is no number {_range(least, most)}")
        return value

    return number


def _range(least: float, most: float) -> str:
    return f"from {least:g}" + ("" if math.isinf(most) else f" to {most:g}")


count = whole(1)
seed = whole(0, 2**63 - 1)
amount = real(0, 1000)
share = real(0, 1)
