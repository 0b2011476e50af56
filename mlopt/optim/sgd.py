"""SGD with momentum, nesterov, dampening, weight decay and maximize."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._tensors import Many, Tensors, added, multiplied, subtracted, unrecorded
from ._rule import AbstractUpdate, groups, rate

__all__ = ["SGDUpdate"]


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
            lr, momentum = rate(group), group["momentum"]
            steps: Any = [gradient[k] for k in keys]
            if group["maximize"]:
                steps = torch._foreach_neg(steps)
            if group["weight_decay"]:
                steps = added(steps, values, group["weight_decay"])
            if momentum:
                buffers = [
                    optimizer.state.get(parameters[k], {}).get("momentum_buffer") for k in keys
                ]
                fresh = 1 - group["dampening"]
                if all(b is not None for b in buffers):
                    averaged = added(multiplied(buffers, momentum), steps, fresh)
                else:
                    averaged = [
                        d if b is None else momentum * b + fresh * d
                        for b, d in zip(buffers, steps, strict=True)
                    ]
                steps = added(steps, averaged, momentum) if group["nesterov"] else averaged
            moved.update(zip(keys, _stepped(values, steps, lr), strict=True))
        return moved

    def derivative(
        self, optimizer: Any, parameters: Tensors, gradient: Tensors, cotangent: Tensors
    ) -> Tensors:
        del gradient  # the update is linear in it
        out: Tensors = {}
        for group, keys, _ in groups(optimizer, parameters, cotangent):
            factor = -rate(group) if group["maximize"] else rate(group)
            values = [cotangent[k] for k in keys]
            if group["nesterov"]:  # torch allows it without dampening only
                factor = factor * (1 + group["momentum"])
            elif group["momentum"] and group["dampening"]:
                fresh = 1 - group["dampening"]
                states = [optimizer.state.get(parameters[k], {}) for k in keys]
                kept = [s.get("momentum_buffer") is not None for s in states]
                values = [v * fresh if k else v for v, k in zip(values, kept, strict=True)]
            out.update(zip(keys, multiplied(values, factor), strict=True))
        return out


def _stepped(values: Many, steps: Many, lr: Any) -> Many:
    if isinstance(lr, Tensor):
        return subtracted(values, multiplied(steps, lr))
    return added(values, steps, -lr)
