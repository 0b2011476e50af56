"""Means over the parts of a batch: of buffers, and of metrics."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .._containers.containers import rebuilt
from .._errors import GraphError
from .._graph.node import Node
from .._tensors import continuous
from .handed import detached
from .pieces import times

__all__ = ["Buffers", "Written", "kept", "mean"]

#: Buffers, by their owner.
Written = dict[Any, list[Tensor]]


class Buffers:
    """What the parts have written into the buffers of their owners."""

    def __init__(self, node: Node, weights: Sequence[Any]) -> None:
        self._node, self._weights = node, weights
        self._first: Written = {}
        self._sums: dict[Any, list[Tensor]] = {}
        self._count = 0

    def add(self, written: Written) -> None:
        """What the next part has written."""
        weight = self._weights[self._count]
        for source, tensors in written.items():
            if not self._count:
                self._first[source] = tensors
                self._sums[source] = [_weighed(t, weight) for t in tensors]
                continue
            for total, t in zip(self._sums[source], tensors, strict=True):
                if _is_averaged(t):
                    if t.shape != total.shape:
                        raise GraphError(
                            f"{self._node.name}: its parts leave buffers of the shapes "
                            f"{tuple(total.shape)} and {tuple(t.shape)}, of which there is no "
                            "mean. Give it split=False."
                        )
                    total += _weighed(t, weight)
        self._count += 1

    def mean(self) -> Written:
        """The mean over parts; of whole numbers, what the first has written."""
        return {
            source: [
                total if _is_averaged(t) else t
                for t, total in zip(self._first[source], totals, strict=True)
            ]
            for source, totals in self._sums.items()
        }


def _is_averaged(t: Any) -> bool:
    return isinstance(t, Tensor) and continuous(t)


def _weighed(t: Any, weight: Any) -> Any:
    return times(t, weight) if _is_averaged(t) else t


def kept(metrics: dict[str, Any]) -> dict[str, Any]:
    """Metrics of a part without their graphs."""
    return rebuilt(metrics, detached)


def mean(each: Sequence[Mapping[str, Any]], weights: Sequence[Any]) -> dict[str, Any]:
    """The weighted means of metrics; what has none is that of the first part."""
    out: dict[str, Any] = {}
    for name, first in each[0].items():
        values = [metrics.get(name) for metrics in each]
        if isinstance(first, dict):
            out[name] = mean([v if isinstance(v, dict) else {} for v in values], weights)
        elif _has_mean(values):
            terms = [times(v, w) for v, w in zip(values, weights, strict=True)]
            out[name] = sum(terms[1:], terms[0])
        else:
            out[name] = first
    return out


def _has_mean(values: Sequence[Any]) -> bool:
    if any(isinstance(v, Tensor) and (v.is_nested or v.is_quantized) for v in values):
        return False
    if all(isinstance(v, Tensor) for v in values):
        return len({v.shape for v in values}) == 1
    return all(isinstance(v, numbers.Real | Tensor) and not isinstance(v, bool) for v in values)
