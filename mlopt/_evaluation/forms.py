"""`Forms`: what a function returns, as a rank knows it that has nothing to evaluate."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._errors import DataError
from .._graph.node import Node
from .._graph.signal import join, split
from ..distributed.ranks import Ranks
from ..distributed.traffic import ONCE, current, purpose
from .part_means import kept
from .pieces import times

__all__ = ["Form", "Forms"]

Path = tuple[str, ...]


@dataclass(frozen=True)
class Form:
    """What an objective returns.

    Attributes:
        dtype: of its value.
        means: the metrics of which the mean over ranks is taken, and the shape of each: those that
            every rank has with the same shape, a number or a tensor.
    """

    dtype: torch.dtype
    means: Sequence[tuple[Path, tuple[int, ...]]] = field(default=())

    def zero(self, device: torch.device) -> Tensor:
        """The value of a rank that has nothing to evaluate."""
        return torch.zeros((), dtype=self.dtype, device=device)

    def weighed(self, metrics: Mapping[str, Any], weight: Any, like: Tensor) -> dict[str, Any]:
        """Metrics without their graphs, of which those that have a mean are this rank's share.

        Args:
            metrics: of this rank.
            weight: of its share.
            like: on the device, and of the type, that numbers become tensors of.

        Returns:
            The same, as tensors that are to be added up; see `averaged`.
        """
        out = kept(dict(metrics))
        flat = dict(_flat(out))
        for path, shape in self.means:
            value = flat.get(path)
            if isinstance(value, Tensor) and tuple(value.shape) == shape:
                share = times(value.to(_floating(value, like)), weight)
            elif isinstance(value, numbers.Real) and not shape:
                share = times(like.new_tensor(float(value)), weight)
            else:
                share = like.new_zeros(shape)
            _put(out, path, share)
        return out

    def averaged(self, metrics: Mapping[str, Any]) -> list[Tensor]:
        """Those metrics of `weighed` that are to be added up over the ranks."""
        flat = dict(_flat(metrics))
        return [flat[path] for path, _ in self.means]


class Forms:
    """The forms of a graph's nodes: the ranks ask each other once for each.

    Args:
        ranks: that have to agree.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._objectives: dict[Node, Form] = {}
        self._signals: dict[Node, Any] = {}

    def objective(self, node: Node, value: Tensor | None, metrics: Mapping[str, Any]) -> Form:
        """The form of an objective.

        Args:
            node: the problem.
            value: that it has here; None where this rank has nothing to evaluate.
            metrics: besides.

        Returns:
            The form.
        """
        if node not in self._objectives:
            own = None if value is None else (value.dtype, [*_averaged(metrics)])
            with purpose(ONCE):
                each = [e for e in self._ranks.collect(own) if e is not None]
            common = [m for m in each[0][1] if all(m in other for _, other in each[1:])]
            self._objectives[node] = Form(each[0][0], common)
        return self._objectives[node]

    def signal(self, node: Node, value: Any, rows: bool, again: bool = False) -> Any:
        """The value of a signal; of no samples it is rows that are none, or a sum of nothing.

        Args:
            node: the signal.
            value: that it has here; None where this rank has nothing to evaluate.
            rows: whether it has a row for each sample.
            again: ask the other ranks though they have said it before.

        Returns:
            The value, or that of nothing.

        Raises:
            DataError: no rank can say what that is like.
        """
        if again or node not in self._signals:
            own = None if value is None else _of_nothing(value, node, rows)
            with purpose(current() if again else ONCE):
                found = next((e for e in self._ranks.collect(own) if e is not None), None)
            if found is None:
                raise DataError(f"{node.name}: no rank has samples of this batch.")
            self._signals[node] = found
        return self._signals[node] if value is None else value

    def like(self, node: Node) -> Any:
        """What the value of a signal was like when it was asked for, of no samples."""
        return self._signals[node]


def _of_nothing(value: Any, node: Node, rows: bool) -> Any:
    none = {
        k: t.detach().cpu().new_zeros((0, *t.shape[1:]) if rows and t.dim() else t.shape)
        for k, t in split(value, node.name).items()
    }
    return join(value, none)


def _averaged(metrics: Mapping[str, Any]) -> Sequence[tuple[Path, tuple[int, ...]]]:
    found: list[tuple[Path, tuple[int, ...]]] = []
    for path, value in _flat(metrics):
        if isinstance(value, Tensor):
            plain = value.layout is torch.strided and not value.is_quantized
            if plain and not value.is_nested and not value.is_complex():
                found.append((path, tuple(value.shape)))
        elif isinstance(value, numbers.Real) and not isinstance(value, bool):
            found.append((path, ()))
    return found


def _flat(metrics: Mapping[str, Any], path: Path = ()) -> Sequence[tuple[Path, Any]]:
    out: list[tuple[Path, Any]] = []
    for name, value in metrics.items():
        if isinstance(value, dict):
            out += _flat(value, (*path, name))
        else:
            out.append(((*path, name), value))
    return out


def _put(metrics: dict[str, Any], path: Path, value: Any) -> None:
    for name in path[:-1]:
        metrics = metrics.setdefault(name, {})
    metrics[path[-1]] = value


def _floating(value: Tensor, like: Tensor) -> torch.dtype:
    return value.dtype if value.is_floating_point() else like.dtype
