"""Adam and AdamW, with amsgrad and maximize."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._tensors import Tensors
from ._rule import AbstractUpdate, groups

__all__ = ["AdamUpdate"]


@dataclass(frozen=True)
class AdamUpdate(AbstractUpdate):
    """`torch.optim.Adam` and `AdamW`.

        d = +-g (+ weight_decay w, coupled);   m = b1 m + (1 - b1) d;   v = b2 v + (1 - b2) d^2
        w' = w (1 - lr weight_decay, decoupled) - lr/(1 - b1^t) m / (sqrt(v/(1 - b2^t)) + eps)

    D holds the second moment v constant: the exact derivative is zero at the first step, where the
    update is the gradient's sign, and lr/eps (1e8 times lr) where a gradient is zero.

        D = lr/(1 - b1^t) (1 - b1) / (sqrt(v/(1 - b2^t)) + eps),    and 0 where v = 0

    Args:
        decoupled: weight decay as in AdamW.
    """

    decoupled: bool

    def look_ahead(self, optimizer: Any, parameters: Tensors, gradient: Tensors) -> Tensors:
        moved: Tensors = {}
        for group, keys, values in groups(optimizer, parameters, gradient):
            for key, value in zip(keys, values, strict=True):
                state = optimizer.state.get(parameters[key], {})
                step = self._raw(group, value, gradient[key])
                mean = state.get("exp_avg", torch.zeros_like(value)).lerp(
                    step, 1 - group["betas"][0]
                )
                size, denominator, _ = self._denominator(group, state, step)
                if self._decouples(group):
                    value = value * (1 - group["lr"] * group["weight_decay"])
                # a count without dimensions would lift a value without them to its precision
                moved[key] = (value - size * mean / denominator).to(parameters[key].dtype)
        return moved

    def derivative(
        self, optimizer: Any, parameters: Tensors, gradient: Tensors, cotangent: Tensors
    ) -> Tensors:
        out: Tensors = {}
        for group, keys, values in groups(optimizer, parameters, cotangent):
            for key, value in zip(keys, values, strict=True):
                state = optimizer.state.get(parameters[key], {})
                step = self._raw(group, value, gradient[key])
                size, denominator, second = self._denominator(group, state, step)
                factor = size * (1 - group["betas"][0]) / denominator
                if group["maximize"]:
                    factor = -factor
                passed = (factor * cotangent[key]).to(cotangent[key].dtype)
                out[key] = torch.where(second > 0, passed, 0.0)
        return out

    def _decouples(self, group: dict[str, Any]) -> bool:
        return group.get("decoupled_weight_decay", self.decoupled)

    def _raw(self, group: dict[str, Any], value: Tensor, gradient: Tensor) -> Tensor:
        step = -gradient.detach() if group["maximize"] else gradient.detach()
        if group["weight_decay"] and not self._decouples(group):
            step = step.add(value, alpha=group["weight_decay"])
        return step

    def _denominator(
        self, group: dict[str, Any], state: dict[str, Any], step: Tensor
    ) -> tuple[Any, Tensor, Tensor]:
        """The size lr / (1 - b1^t), sqrt(v / (1 - b2^t)) + eps, and v with this gradient."""
        b1, b2 = group["betas"]
        count = state.get("step", 0)
        # torch keeps it in float32, in which 1 - b2^t would be good to four digits
        count = (count.double() if isinstance(count, Tensor) else count) + 1
        second = state.get("exp_avg_sq", torch.zeros_like(step)) * b2 + (1 - b2) * step * step
        if group["amsgrad"]:
            second = torch.maximum(state.get("max_exp_avg_sq", second), second)
        correction = (1 - b2**count) ** 0.5
        return group["lr"] / (1 - b1**count), second.sqrt() / correction + group["eps"], second
