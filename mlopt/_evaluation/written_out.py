"""Operations of which torch's higher derivatives are wrong without a word, written out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .._graph.node import Node
from .autograd_graph import operations
from .point import Evaluator

__all__ = ["WrittenOut", "check_written_out"]

#: How often each can be differentiated. What their forward kernels save is a constant to the
#: formulas of their derivatives, and not one of the function.
_TRUE = {"WeightNormInterfaceBackward0": 1, "NativeLayerNormBackward0": 2}


def check_written_out(evaluator: Evaluator, node: Node, result: Any, often: int) -> None:
    """Have a function evaluated with these operations written out, where it would matter.

    Args:
        evaluator: of the graph.
        node: a problem or signal.
        result: what it returned.
        often: how often it may be differentiated.
    """
    if often > 1 and any(_TRUE.get(at.name(), often) < often for at in operations(result)):
        evaluator.regions[node] = WrittenOut


class WrittenOut(TorchFunctionMode):
    """A block in which they are computed from operations that torch differentiates rightly."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        del types
        return (_OTHERS.get(func) or func)(*args, **(kwargs or {}))


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    return v * (g / torch.norm_except_dim(v, 2, dim))


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    del cudnn_enable
    narrow = input.dtype in (torch.float16, torch.bfloat16)
    x = input.float() if narrow else input
    over = tuple(range(-len(normalized_shape), 0))
    x = x - x.mean(over, keepdim=True)
    x = x / (x.square().mean(over, keepdim=True) + eps).sqrt()
    x = x if weight is None else x * weight
    x = x if bias is None else x + bias
    return x.to(input.dtype)


_OTHERS: dict[Any, Callable[..., Any]] = {
    torch._weight_norm: _weight_norm,
    torch.layer_norm: _layer_norm,
    torch.nn.functional.layer_norm: _layer_norm,
}
