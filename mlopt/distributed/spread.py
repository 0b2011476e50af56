"""`SpreadKeys`: which tensors are spread over ranks, and the numbers that are made of all rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .._errors import RankError
from .._tensors import Key, spread
from .ranks import Ranks
from .shards import Shard, sequence
from .sums import Sums
from .traffic import purpose

__all__ = ["SpreadKeys", "shard_of"]


class SpreadKeys:
    """The tensors of an engine that are spread over its ranks, by key; see `_tensors.Spread`.

    Args:
        shards: how the rows of each lie.
        ranks: that have them.

    Attributes:
        variables: whose they are.
    """

    def __init__(self, shards: Mapping[Key, Shard], ranks: Ranks) -> None:
        self.shards, self._sums, self._ranks = shards, Sums(ranks), ranks
        self.variables = frozenset(variable for variable, _ in shards)

    def __contains__(self, key: object) -> bool:
        return key in self.shards

    def add(self, numbers: Tensor) -> Tensor:
        """The sums over ranks, on each."""
        return _Total.apply(numbers, self._sums)

    def most(self, numbers: Tensor) -> Tensor:
        """The greatest of all ranks', or nan."""
        own = numbers.detach().contiguous()
        with purpose("norms"):
            each = self._sums.lined_up(own.reshape(1, -1), [1] * self._ranks.size)
        return each.amax(0).reshape(own.shape)

    def first(self, place: int) -> int:
        """Compare what the ranks have found, and what they have gathered until then.

        Args:
            place: where this rank has found something, or how many places there are.

        Returns:
            The first of what the ranks say.

        Raises:
            RankError: they have not, so that nothing that was computed means anything.
        """
        each = self._ranks.exchange([place, sequence()])
        if any(gathered != each[0][1] for _, gathered in each):
            raise RankError(
                "The ranks have read other sharded parameters, or in another order: they gather "
                "them together, so functions have to read the same on all ranks, whatever their "
                "samples are. Nothing was committed.",
                rank=self._ranks.rank,
            )
        return int(min(place for place, _ in each))


def shard_of(key: Key) -> Shard | None:
    """How the rows of a tensor lie, if it is spread in the work that goes on."""
    over = spread()
    return over.shards.get(key) if isinstance(over, SpreadKeys) else None


class _Total(torch.autograd.Function):
    """The sum over ranks of numbers, each of its own rows: its cotangent is the same on all."""

    @staticmethod
    def forward(ctx: Any, numbers: Tensor, sums: Sums) -> Any:
        ctx.sums = sums
        with purpose("norms"):
            return sums.now([numbers])[0]

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        return _Everywhere.apply(cotangent, ctx.sums), None


class _Everywhere(torch.autograd.Function):
    """What is the same on all ranks, where each goes on with its own rows."""

    @staticmethod
    def forward(ctx: Any, numbers: Tensor, sums: Sums) -> Any:
        ctx.sums = sums
        return numbers.clone()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Any:
        return _Total.apply(cotangent, ctx.sums), None
