"""SGD with momentum, nesterov, dampening, weight decay and maximize."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._tensors import Many, Tensors, added, multiplied, subtracted, unrecorded
from ._rule import AbstractUpdate, groups
from .numbers import constants, given

__all__ = ["SGDUpdate", "undampened"]


class SGDUpdate(AbstractUpdate):
    """`torch.optim.SGD`.

        d = +-g + weight_decay w;   b = momentum b + (1 - dampening) d   (b = d at first)
        w' = w - lr (d + momentum b  with nesterov, else b)

    D = lr, times (1 - dampening) after the first step, or times (1 + momentum) with nesterov; the
    sign is turned by maximize.
    """

    @unrecorded
    def look_ahead(self, optimizer: Any, parameters: Tensors, gradient: Tensors) -> Tensors:
        moved: Tensors = {}
        for group, keys, values in groups(optimizer, parameters, gradient):
            group = constants(group)
            lr, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
            steps: Any = [gradient[k] for k in keys]
            if group["maximize"]:
                steps = torch._foreach_neg(steps)
            if given(decay):
                steps = _plus(steps, values, decay)
            if given(momentum):
                buffers = [
                    optimizer.state.get(parameters[k], {}).get("momentum_buffer") for k in keys
                ]
                fresh = undampened(momentum, group["dampening"])
                if all(b is not None for b in buffers):
                    averaged = _plus(multiplied(buffers, momentum), steps, fresh)
                else:
                    averaged = [
                        d if b is None else momentum * b + fresh * d
                        for b, d in zip(buffers, steps, strict=True)
                    ]
                steps = _plus(steps, averaged, momentum) if group["nesterov"] else averaged
            moved.update(zip(keys, _stepped(values, steps, lr), strict=True))
        return moved

    def derivative(
        self, optimizer: Any, parameters: Tensors, gradient: Tensors, cotangent: Tensors
    ) -> Tensors:
        del gradient  # the update is linear in it
        out: Tensors = {}
        for group, keys, _ in groups(optimizer, parameters, cotangent):
            group = constants(group)
            lr, momentum, dampening = group["lr"], group["momentum"], group["dampening"]
            factor = -lr if group["maximize"] else lr
            values = [cotangent[k] for k in keys]
            if group["nesterov"]:  # torch allows it without dampening only
                factor = factor * (1 + momentum)
            elif given(momentum) and given(dampening):
                fresh = undampened(momentum, dampening)
                states = [optimizer.state.get(parameters[k], {}) for k in keys]
                kept = [s.get("momentum_buffer") is not None for s in states]
                values = [v * fresh if k else v for v, k in zip(values, kept, strict=True)]
            out.update(zip(keys, multiplied(values, factor), strict=True))
        return out


def undampened(momentum: Any, dampening: Any) -> Any:
    """By how much a gradient enters an average that there is already.

    Args:
        momentum: a number, or a tensor without dimensions, which may be zero: then torch keeps no
            average, and dampens nothing.
        dampening: likewise.

    Returns:
        The factor.
    """
    if isinstance(momentum, Tensor) and given(dampening):
        dampening = dampening * (momentum != 0).to(momentum.dtype)
    return 1 - dampening


def _plus(a: Many, b: Many, factor: Any) -> Many:
    """Of each pair a + factor b; `alpha=` takes numbers alone, and waits for those of a device."""
    return added(a, multiplied(b, factor)) if isinstance(factor, Tensor) else added(a, b, factor)


def _stepped(values: Many, steps: Many, lr: Any) -> Many:
    if isinstance(lr, Tensor):
        return subtracted(values, multiplied(steps, lr))
    return added(values, steps, -lr)
