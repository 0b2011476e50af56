"""`OverRanks`: a function that is added up over ranks, of which each has the graph of its own part.

    y = sum_r f_r(x)        (or f_r(x) itself, where its rows are this rank's alone)

Its derivative is another such function, of x and of the cotangent c,

    x' = sum_r (df_r/dx)^T c

and so on to any order. So the sum of a value, and that of a derivative, are taken where they arise,
and all that is between two evaluations is the same on all ranks. What a rank keeps of its part is
an ordinary graph, between leaves of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..distributed.shared_sums import Together, together
from ..distributed.sums import Sums, sparse
from ..hypergrad.derivatives import common_length, derivatives, uncounted
from .joint import asked

__all__ = ["Own", "OverRanks"]


#: What a rank has of a value: nothing, a sparse tensor, or a dense one.
NOTHING, SPARSE, DENSE = 0, 1, 2


class Agrees(Protocol):
    """Says the most that any rank has of each value."""

    def __call__(self, name: Any, there: Sequence[int]) -> Sequence[int]: ...


@dataclass(frozen=True)
class Own:
    """What a rank adds to a function.

    Attributes:
        sums: over the ranks.
        agree: says of which values there is one on any rank, and of what kind.
        name: of the function: whoever differentiates it in the same way gives it the same.
        outputs: its values here, with their graph; None where there are none.
        leaves: what they are computed from.
        everywhere: which of the leaves are the same on all ranks: derivatives by them are sums.
        whole: which of the outputs are sums: cotangents on them are the same on all ranks.
        evaluation: in which the values were computed, on all ranks together; None where one rank
            computes them.
        once: whether the graph is gone through once only.
    """

    sums: Sums
    agree: Agrees
    name: tuple[Any, ...]
    outputs: Sequence[Tensor | None]
    leaves: Sequence[Tensor]
    everywhere: Sequence[bool]
    whole: Sequence[bool]
    evaluation: Together | None
    once: bool = False

    def pulled(
        self, passed: Sequence[int], along: Sequence[Tensor], by: Sequence[int], again: bool
    ) -> list[Tensor | None]:
        """What cotangents become here: this rank's share.

        Args:
            passed: the outputs that they are on.
            along: they.
            by: the leaves that they are pulled back to.
            again: whether the result is differentiated in its turn.

        Returns:
            One for each of these leaves.
        """
        pairs = [
            (y, c)
            for k, c in zip(passed, along, strict=True)
            if (y := self.outputs[k]) is not None and y.requires_grad
        ]
        common = None
        if self.evaluation is not None and not all(self.whole[k] for k in passed):
            common = self.evaluation.common
        with uncounted(), common_length(common), together(self.evaluation):
            found = derivatives(
                [y for y, _ in pairs],
                {(None, str(k)): self.leaves[k] for k in by},
                [c for _, c in pairs],
                create_graph=again,
                retain_graph=not self.once,
                sparse=True,
            )
        return [found.get((None, str(k))) for k in by]

    def attached(self, values: Sequence[Tensor | None], tensors: Sequence[Tensor]) -> Any:
        """The function's values with their place in the graph.

        Args:
            values: what its outputs come to over the ranks, without a graph; None for none.
            tensors: that the leaves stand for.

        Returns:
            The values.
        """
        return OverRanks.apply(self, values, *tensors)


class OverRanks(torch.autograd.Function):
    """The values of a function that is added up over ranks."""

    #: Where the loss scale of fp16 is to be applied: cotangents may be this rank's own.
    scales_inside = True

    @staticmethod
    def forward(ctx: Any, own: Own, values: Sequence[Tensor | None], *tensors: Tensor) -> Any:
        ctx.own = own
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        return tuple(values)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        own: Own = ctx.own
        tensors: Sequence[Tensor] = ctx.saved_tensors
        passed = [k for k, c in enumerate(cotangents) if c is not None]
        along = [c for c in cotangents if c is not None]
        by = asked(ctx, 2)
        found: list[Tensor | None] = [None] * len(tensors)
        if passed and by:
            for k, t in zip(by, _pull(own, passed, along, by, tensors), strict=True):
                found[k] = t
        return None, None, *found


def _pull(
    own: Own,
    passed: Sequence[int],
    along: Sequence[Tensor],
    by: Sequence[int],
    tensors: Sequence[Tensor],
) -> list[Tensor | None]:
    """What cotangents become over all ranks; a function in its turn, under grad mode."""
    again = torch.is_grad_enabled()
    held = [c.detach().requires_grad_(again) for c in along]
    with torch.enable_grad():
        outputs = own.pulled(passed, held, by, again)
    name = (*own.name, tuple(passed), tuple(by))
    there = own.agree(name, [*map(_kind, outputs)])
    values = _summed(own, outputs, by, there, tensors)
    if not again:
        return values
    function = replace(
        own,
        name=name,
        outputs=outputs,
        leaves=[*own.leaves, *held],
        everywhere=[*own.everywhere, *(own.whole[k] for k in passed)],
        whole=[own.everywhere[k] for k in by],
        once=False,
    )
    return list(function.attached(values, [*tensors, *along]))


def _summed(
    own: Own,
    outputs: Sequence[Tensor | None],
    by: Sequence[int],
    there: Sequence[int],
    tensors: Sequence[Tensor],
) -> list[Tensor | None]:
    """The values over the ranks of those that are there on any."""
    values = [_as(kind, t, own.leaves[k]) for kind, t, k in zip(there, outputs, by, strict=True)]
    places = [i for i, k in enumerate(by) if own.everywhere[k] and values[i] is not None]
    # What ends here, and goes on into nothing, need not be there before somebody reads it.
    ends = own.sums.deferring and SPARSE not in there and all(tensors[k].is_leaf for k in by)
    add_up = own.sums.soon if ends else own.sums.now
    totals = add_up([values[i] for i in places])  # type: ignore[misc]
    for i, total in zip(places, totals, strict=True):
        values[i] = total
    return values


def _kind(value: Tensor | None) -> int:
    return NOTHING if value is None else SPARSE if value.is_sparse else DENSE


def _as(kind: int, value: Tensor | None, like: Tensor) -> Tensor | None:
    """A rank's share of a value, which may be nothing where others have something."""
    if kind == NOTHING:  # if there is one all the same, the step is taken again
        return None
    if value is not None:
        value = value.detach()
        return value.to_dense() if kind == DENSE and value.is_sparse else value
    if kind == DENSE:
        return torch.zeros_like(like)
    nowhere = torch.empty((1, 0), dtype=torch.int64, device=like.device)
    return sparse(nowhere, like.new_empty((0, *like.shape[1:])), like.shape)
