"""A solution as a node of the autograd graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Attach"]


class Attach(torch.autograd.Function):
    """A solution as a node of the autograd graph: forward its value, backward its pullback.

    The pullback must not reach the outputs: see `Frame`.
    """

    @staticmethod
    def forward(ctx: Any, pullback: Any, values: Sequence[Tensor], *originals: Tensor) -> Any:
        ctx.pullback, ctx.count = pullback, len(originals)
        ctx.set_materialize_grads(False)
        outputs = tuple(v.detach() for v in values)
        ctx.save_for_backward(*outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        return None, None, *ctx.pullback(cotangents, ctx.saved_tensors)
