"""Sums over ranks in the middle of an evaluation, of which each rank has a part of the graph.

Every rank's part goes on from the same sum,

    s = sum_r s_r(x),    y_r = f_r(x, s),

so the cotangent on s is the sum of those that the ranks have of it. A sum over ranks is therefore
its own adjoint, and so on to any order. All ranks go through their parts together, forwards and
backwards: each calls the same layers in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .._errors import MloptError
from .sums import Sums
from .traffic import purpose

__all__ = ["Together", "current", "together"]


class Together:
    """An evaluation that all ranks make together, each of its own samples.

    Args:
        sums: over the ranks.
        refusal: why nothing can be added up in its middle; None if it can.
    """

    __slots__ = ("_refusal", "_used", "sums")

    def __init__(self, sums: Sums, refusal: MloptError | None = None) -> None:
        self.sums, self._refusal, self._used = sums, refusal, False

    def added(self, tensor: Tensor) -> Tensor:
        """The sum over ranks of a tensor, which has a graph here.

        Args:
            tensor: of this rank, of one shape and type on all.

        Returns:
            The sum, with its place in the graph.

        Raises:
            MloptError: nothing can be added up here.
        """
        if self._refusal is not None:
            raise self._refusal
        self._used = True
        return _Added.apply(tensor, self.sums)

    def common(self, length: Tensor) -> Tensor:
        """A length for the cotangents of all ranks, where their graphs hang together.

        Args:
            length: of those of this rank.

        Returns:
            The sum of all ranks' lengths; this rank's, where its graph is by itself.
        """
        return _sum(length, self.sums) if self._used else length


class _Added(torch.autograd.Function):
    """The sum of all ranks' tensors, on every rank."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, sums: Sums) -> Any:
        ctx.sums = sums
        return _sum(tensor, sums)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        return _Added.apply(cotangent, ctx.sums), None


def _sum(tensor: Tensor, sums: Sums) -> Tensor:
    with purpose("batch norm"):
        return sums.now([tensor])[0]


#: Of the process, as autograd's threads are: one engine at a time works.
_current: Together | None = None


def current() -> Together | None:
    """The evaluation that goes on, or of which the graph is gone through, if it is of all ranks."""
    return _current


@contextmanager
def together(evaluation: Together | None) -> Iterator[None]:
    """What is computed in a block is a part of this evaluation.

    Args:
        evaluation: of all ranks; None for one that this rank makes by itself.
    """
    global _current
    before, _current = _current, evaluation
    try:
        yield
    finally:
        _current = before
