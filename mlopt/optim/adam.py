"""Adam and AdamW, with amsgrad and maximize."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._tensors import Tensors, like, real, unrecorded
from ._rule import AbstractUpdate, groups
from .numbers import constants, given

__all__ = ["AdamUpdate"]

Many = list[Tensor] | tuple[Tensor, ...]


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

    @unrecorded
    def look_ahead(self, optimizer: Any, parameters: Tensors, gradient: Tensors) -> Tensors:
        moved: Tensors = {}
        for group, keys, values in groups(optimizer, parameters, gradient):
            group = constants(group)
            states = [optimizer.state.get(parameters[k], {}) for k in keys]
            values = [real(v) for v in values]
            steps = self._raw(group, values, [real(gradient[k]) for k in keys])
            sizes, denominators, _ = self._denominators(group, states, steps)
            means = _averaged(_held(states, "exp_avg", steps), steps, _betas(group)[0])
            if self._decouples(group):
                shrunk = 1 - group["lr"] * group["weight_decay"]
                values = torch._foreach_mul(values, shrunk)
            changes = torch._foreach_div(_times(means, sizes), denominators)
            moved.update(zip(keys, torch._foreach_sub(values, changes), strict=True))
        # a count without dimensions would lift a value without them to its precision
        return {k: like(t, parameters[k]) for k, t in moved.items()}

    def derivative(
        self, optimizer: Any, parameters: Tensors, gradient: Tensors, cotangent: Tensors
    ) -> Tensors:
        out: Tensors = {}
        for group, keys, values in groups(optimizer, parameters, cotangent):
            group = constants(group)
            states = [optimizer.state.get(parameters[k], {}) for k in keys]
            with torch.no_grad():
                values = [real(v) for v in values]
                steps = self._raw(group, values, [real(gradient[k]) for k in keys])
                sizes, denominators, seconds = self._denominators(group, states, steps)
            fresh = 1 - _betas(group)[0]
            factor = -fresh if group["maximize"] else fresh
            # a coordinate that never had a gradient is left out before it is divided by eps
            given = [real(cotangent[k]) for k in keys]
            known = torch._foreach_mul(given, torch._foreach_sign(seconds))
            passed = _times(torch._foreach_mul(known, factor), sizes)
            passed = torch._foreach_div(passed, denominators)
            out.update({k: like(t, cotangent[k]) for k, t in zip(keys, passed, strict=True)})
        return out

    def _decouples(self, group: dict[str, Any]) -> bool:
        return group.get("decoupled_weight_decay", self.decoupled)

    def _raw(self, group: dict[str, Any], values: Many, gradients: Many) -> Many:
        steps = gradients
        if group["maximize"]:
            steps = torch._foreach_neg(steps)
        decay = group["weight_decay"]
        if given(decay) and not self._decouples(group):
            if isinstance(decay, Tensor):
                return torch._foreach_add(steps, torch._foreach_mul(values, decay))
            steps = torch._foreach_add(steps, values, alpha=decay)
        return steps

    def _denominators(
        self, group: dict[str, Any], states: list[dict[str, Any]], steps: Many
    ) -> tuple[list[Any], Many, Many]:
        """The sizes lr / (1 - b1^t), sqrt(v / (1 - b2^t)) + eps, and v with this gradient."""
        b1, b2 = _betas(group)
        counts = [_count(s.get("step", 0)) + 1 for s in states]
        kept = torch._foreach_mul(_held(states, "exp_avg_sq", steps), b2)
        squares = torch._foreach_mul(torch._foreach_mul(steps, 1 - b2), steps)
        seconds = torch._foreach_add(kept, squares)
        if group["amsgrad"]:
            before = [
                real(s.get("max_exp_avg_sq", v)) for s, v in zip(states, seconds, strict=True)
            ]
            seconds = torch._foreach_maximum(before, seconds)
        corrections = [1 / (1 - b2**c) ** 0.5 for c in counts]
        roots = _times(torch._foreach_sqrt(seconds), corrections)
        sizes = [group["lr"] / (1 - b1**c) for c in counts]
        return sizes, torch._foreach_add(roots, group["eps"]), seconds


def _betas(group: dict[str, Any]) -> tuple[Any, Any]:
    """Numbers, or tensors in double precision: in float32 1 - b2^t has four digits."""
    b1, b2 = (b.double() if isinstance(b, Tensor) else b for b in group["betas"])
    return b1, b2


def _averaged(means: Many, steps: Many, b1: Any) -> Many:
    """Of each pair b1 m + (1 - b1) d."""
    if isinstance(b1, Tensor):  # by which not every torch interpolates
        return torch._foreach_add(torch._foreach_mul(means, b1), torch._foreach_mul(steps, 1 - b1))
    return torch._foreach_lerp(means, steps, 1 - b1)


def _held(states: list[dict[str, Any]], name: str, steps: Many) -> list[Tensor]:
    """What the optimizer keeps under a name; zero before its first step."""
    return [
        real(s[name]) if name in s else torch.zeros_like(t)
        for s, t in zip(states, steps, strict=True)
    ]


def _count(step: Any) -> Any:
    """How many steps there were, in double precision: in float32 1 - b2^t has four digits."""
    if not isinstance(step, Tensor):
        return step
    # torch keeps the count on the CPU, except with `capturable`: then it stays on its device
    return step.item() if step.device.type == "cpu" else step.double()


def _times(tensors: Many, factors: list[Any]) -> Many:
    """Each tensor times its factor, in one kernel where the factors are numbers."""
    if any(isinstance(f, Tensor) for f in factors):
        return [t * f for t, f in zip(tensors, factors, strict=True)]
    return torch._foreach_mul(tensors, factors)
