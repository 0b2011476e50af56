"""What a number or a string of an argument must be, beside its type."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch

__all__ = [
    "Limit",
    "a_device",
    "a_seed",
    "from_one",
    "from_zero",
    "in_body",
    "one_of",
    "positive",
    "within",
]


@dataclass(frozen=True)
class Limit:
    """What a number or a string of an argument must be, beside its type.

    Attributes:
        text: it in words, that go after those of the type.
        holds: whether a value is so.
    """

    text: str
    holds: Callable[[Any], bool]


def within(interval: str) -> Limit:
    """Numbers of an interval, "[0, 1)" for example; it may end at inf."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    text = f" in {interval}"
    if interval == "(0, inf)":
        text = ", positive and finite"
    elif interval.startswith("[") and interval.endswith("inf)"):
        text = f", at least {low:g}"

    def holds(x: Any) -> bool:
        return (low < x or (low == x and interval[0] == "[")) and (
            x < high or (x == high and interval[-1] == "]")
        )

    return Limit(text, holds)


from_zero, from_one = within("[0, inf)"), within("[1, inf)")
positive = within("(0, inf)")


def one_of(names: Collection[str]) -> Limit:
    """Strings of a table."""
    return Limit(", one of " + ", ".join(map(repr, names)), lambda name: name in names)


def _is_device(name: str) -> bool:
    try:
        torch.device(name)
    except RuntimeError:
        return False
    return True


#: What the function refuses itself, in better words.
in_body = Limit("", lambda _: True)

#: Names of devices.
a_device = Limit(' that names a device of torch, "cpu" or "cuda" for example', _is_device)

#: What torch's generators take.
a_seed = Limit(" from -2**63 to 2**64 - 1", lambda x: -(2**63) <= x < 2**64)
