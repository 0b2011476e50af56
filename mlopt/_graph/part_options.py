"""What a problem or signal says of its batch in parts."""

from __future__ import annotations

from typing import Any

from .._errors import GraphError

__all__ = ["check_part_options"]


def check_part_options(
    name: str, split: Any, count: Any, combine: Any, data: bool, signal: bool
) -> None:
    """Refuse options that are none.

    Args:
        name: of the node.
        split: how its batch is split.
        count: what a part of it counts.
        combine: how the values of its parts come together.
        data: whether it has batches.
        signal: whether it is a signal, which need not say how they do.

    Raises:
        GraphError: an option is not what it must be.
    """
    dimension = isinstance(split, int) and not isinstance(split, bool) and split >= 0
    if not (split is None or split is False or dimension or callable(split)):
        raise GraphError(
            f"{name}: split={split!r}; it takes a dimension (from 0), a function "
            "(batch, parts) -> list of parts, or False, which takes the batch whole."
        )
    if not (count is None or callable(count)):
        raise GraphError(
            f"{name}: count={count!r}; it takes a function (part of a batch) -> what that counts "
            "in the mean."
        )
    if combine not in ("sum", "mean") and not (combine is None and signal):
        raise GraphError(f'{name}: combine={combine!r}; it takes "sum" or "mean".')
    if not data and not (count is None and (split is None or split is False)):
        option = "split" if count is None else "count"
        raise GraphError(f"{name}: {option}= says something of its batches: give it data=.")
