"""Operations of which torch's higher derivatives are wrong without a word, written out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode

from .._graph.node import Node
from .autograd_graph import operations
from .point import Evaluator

__all__ = ["Calls", "WrittenOut", "check_written_out"]

#: How often each can be differentiated. What their forward kernels save is a constant to the
#: formulas of their derivatives, and not one of the function.
_TRUE = {
    "WeightNormInterfaceBackward0": 1,
    "NativeLayerNormBackward0": 2,
    # And of instance norm, made of it: the third derivative is wrong in torch 2.6, later an error.
    "NativeBatchNormBackward0": 2,
    "CudnnBatchNormBackward0": 2,
    "MiopenBatchNormBackward0": 2,
}


def check_written_out(
    evaluator: Evaluator, node: Node, result: Any, often: int, again: Calls
) -> None:
    """Have a function evaluated with these operations written out, where it would matter.

    Args:
        evaluator: of the graph.
        node: a problem or signal.
        result: what it returned.
        often: how often it may be differentiated.
        again: what its backward called, of which the result's graph may say nothing.
    """
    called = {_TRUE.get(at.name(), often) for at in operations(result)} | again.true
    if often > 1 and any(true < often for true in called):
        evaluator.regions[node] = WrittenOut


class Calls(TorchFunctionMode):
    """Notes which of these operations Python calls.

    Attributes:
        true: how often each that was called can be differentiated.
    """

    def __init__(self) -> None:
        super().__init__()
        self.true: set[int] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        del types
        if func in _OTHERS:
            self.true.add(1 if func is torch._weight_norm else 2)
        return func(*args, **(kwargs or {}))


class WrittenOut(TorchFunctionMode):
    """A block in which they are computed from operations that torch differentiates rightly."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        del types
        return (_OTHERS.get(func) or func)(*args, **(kwargs or {}))

    def __exit__(self, *exception: Any) -> None:
        # After an operation that has raised something, autograd has taken it off already.
        if _get_current_function_mode() is self:
            super().__exit__(*exception)


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
    x = _wide(input)
    x = _normalised(x, tuple(range(-len(normalized_shape), 0)), eps)[0]
    x = x if weight is None else x * weight
    x = x if bias is None else x + bias
    return x.to(input.dtype)


def _batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> Tensor:
    statistics = running_mean, running_var
    if not training:  # it is linear then
        return torch.batch_norm(
            input, weight, bias, *statistics, training, momentum, eps, cudnn_enabled
        )
    over = (0, *range(2, input.dim()))
    return _norm(input, over, weight, bias, statistics, momentum, eps)


def _instance_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> Tensor:
    statistics = running_mean, running_var
    if not use_input_stats:
        return torch.instance_norm(
            input, weight, bias, *statistics, use_input_stats, momentum, eps, cudnn_enabled
        )
    return _norm(input, tuple(range(2, input.dim())), weight, bias, statistics, momentum, eps)


def _norm(
    input: Tensor,
    over: tuple[int, ...],
    weight: Tensor | None,
    bias: Tensor | None,
    running: tuple[Tensor | None, Tensor | None],
    momentum: float,
    eps: float,
) -> Tensor:
    """Normalise over some dimensions, none of which is that of channels; count statistics."""
    number = math.prod(input.shape[d] for d in over)
    if number < 2:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {input.shape}"
        )
    x, mean, variance = _normalised(_wide(input), over, eps)
    with torch.no_grad():
        found = mean, variance * number / (number - 1)  # that of a sample is unbiased
        for held, value in zip(running, found, strict=True):
            if held is not None:
                each = value.reshape(-1, input.shape[1]).mean(0)  # of instances, their mean
                held.mul_(1 - momentum).add_(each.to(held.dtype), alpha=momentum)
    shape = (1, -1, *[1] * (input.dim() - 2))
    x = x if weight is None else x * weight.view(shape)
    x = x if bias is None else x + bias.view(shape)
    return x.to(input.dtype)


def _normalised(x: Tensor, over: tuple[int, ...], eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """With mean zero and variance one, and which they were."""
    mean = x.mean(over, keepdim=True)
    x = x - mean
    variance = x.square().mean(over, keepdim=True)
    return x / (variance + eps).sqrt(), mean, variance


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _reordered(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """One of torch's functions of norms, with the arguments of its own in torch.nn.functional."""

    def call(
        input: Tensor,
        running_mean: Tensor | None = None,
        running_var: Tensor | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        *rest: Any,
        **named: Any,
    ) -> Tensor:
        names = ("training" if function is _batch_norm else "use_input_stats", "momentum", "eps")
        given = {names[0]: function is _instance_norm, "momentum": 0.1, "eps": 1e-5}
        given |= dict(zip(names, rest, strict=False)) | named
        return function(
            input, weight, bias, running_mean, running_var, *(given[name] for name in names)
        )

    return call


_OTHERS: dict[Any, Callable[..., Any]] = {
    torch._weight_norm: _weight_norm,
    torch.layer_norm: _layer_norm,
    torch.nn.functional.layer_norm: _layer_norm,
    torch.batch_norm: _batch_norm,
    torch.nn.functional.batch_norm: _reordered(_batch_norm),
    torch.instance_norm: _instance_norm,
    torch.nn.functional.instance_norm: _reordered(_instance_norm),
}
