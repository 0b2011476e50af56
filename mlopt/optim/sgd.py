"""SGD with momentum, nesterov, dampening, weight decay and maximize."""

from __future__ import annotations

from typing import Any

import torch

from .._tensors import Tensors
from ._rule import AbstractUpdate, groups

__all__ = ["SGDUpdate"]


class SGDUpdate(AbstractUpdate):
    """`torch.optim.SGD`.

        d = +-g + weight_decay w;   b = momentum b + (1 - dampening) d   (b = d at first)
        w' = w - lr (d + momentum b  with nesterov, else b)

    D = lr, times (1 - dampening) after the first step, or times (1 + momentum) with nesterov; the
    sign is turned by maximize.
    """

    def look_ahead(self, optimizer: Any, parameters: Tensors, gradient: Tensors) -> Tensors:
        moved: Tensors = {}
        for group, keys, values in groups(optimizer, parameters, gradient):
            lr, momentum = group["lr"], group["momentum"]
            steps = [gradient[k].detach() for k in keys]
            if group["maximize"]:
                steps = torch._foreach_neg(steps)
            if group["weight_decay"]:
                steps = torch._foreach_add(steps, values, alpha=group["weight_decay"])
            if momentum:
                buffers = [
                    optimizer.state.get(parameters[k], {}).get("momentum_buffer") for k in keys
                ]
                fresh = 1 - group["dampening"]
                if all(b is not None for b in buffers):
                    kept = torch._foreach_mul(buffers, momentum)
                    averaged = torch._foreach_add(kept, steps, alpha=fresh)
                else:
                    averaged = [
                        d if b is None else momentum * b + fresh * d
                        for b, d in zip(buffers, steps, strict=True)
                    ]
                if group["nesterov"]:
                    steps = torch._foreach_add(steps, averaged, alpha=momentum)
                else:
                    steps = averaged
            moved.update(zip(keys, _foreach_step(values, steps, lr), strict=True))
        return moved

    def derivative(
        self, optimizer: Any, parameters: Tensors, gradient: Tensors, cotangent: Tensors
    ) -> Tensors:
        del gradient  # the update is linear in it
        out: Tensors = {}
        for group, keys, _ in groups(optimizer, parameters, cotangent):
            factors = [self._factor(optimizer, group, parameters[k]) for k in keys]
            values = [cotangent[k] for k in keys]
            out.update(zip(keys, torch._foreach_mul(values, factors), strict=True))
        return out

    def _factor(self, optimizer: Any, group: dict[str, Any], parameter: Any) -> float:
        factor = -float(group["lr"]) if group["maximize"] else float(group["lr"])
        if not group["momentum"]:
            return factor
        if group["nesterov"]:  # torch allows it without dampening only
            return factor * (1 + group["momentum"])
        first = optimizer.state.get(parameter, {}).get("momentum_buffer") is None
        return factor if first else factor * (1 - group["dampening"])


def _foreach_step(values: list[Any], steps: Any, lr: Any) -> Any:
    if isinstance(lr, torch.Tensor):
        return torch._foreach_sub(values, torch._foreach_mul(steps, lr))
    return torch._foreach_add(values, steps, alpha=-lr)
