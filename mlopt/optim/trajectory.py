"""The torch optimizers that are known as differentiable functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._errors import GraphError
from ._trajectory import AbstractTrajectory, State, new_step, quotient, raw
from .numbers import given
from .sgd import undampened

__all__ = ["AbstractTrajectory", "State", "rule_of"]

Held = dict[str, Tensor]


@dataclass(frozen=True)
class SGDTrajectory(AbstractTrajectory):
    """`torch.optim.SGD`.

    d = +-g + weight_decay w;   b' = momentum b + (1 - dampening) d   (b' = d at first)
    w' = w - lr (d + momentum b'  with nesterov, else b')
    """

    def fresh(self, optimizer: Any, group: dict[str, Any], parameter: Tensor) -> Held:
        return {}

    def update(
        self, group: dict[str, Any], value: Tensor, gradient: Tensor, state: Held
    ) -> tuple[Tensor, Held]:
        step = raw(group, value, gradient)
        momentum = group["momentum"]
        if given(momentum):
            before = state.get("momentum_buffer")
            after = step
            if before is not None:
                after = momentum * before + undampened(momentum, group["dampening"]) * step
            state = {**state, "momentum_buffer": after}
            step = step + momentum * after if group["nesterov"] else after
        return value - group["lr"] * step, state


@dataclass(frozen=True)
class AdamTrajectory(AbstractTrajectory):
    """`torch.optim.Adam` and `AdamW`.

        d = +-g (+ weight_decay w, coupled);   m' = b1 m + (1 - b1) d;   v' = b2 v + (1 - b2) d^2
        w' = w (1 - lr weight_decay, decoupled) - lr/(1 - b1^t) m' / (sqrt(v'/(1 - b2^t)) + eps)

    with the largest v' so far in its place under amsgrad. At the first step from a fresh state the
    update is lr d / (|d| + eps): its derivative lr eps / (|d| + eps)^2 is next to nothing, and
    comes out as a difference of two numbers of the size lr / |d|. A hyperparameter is seen through
    the later steps, where d differs from the earlier ones.

    Args:
        decoupled: weight decay as in AdamW, where the optimizer has no option that says so.
    """

    decoupled: bool

    def fresh(self, optimizer: Any, group: dict[str, Any], parameter: Tensor) -> Held:
        zero = torch.zeros_like(parameter)
        state = {"step": new_step(group, parameter), "exp_avg": zero, "exp_avg_sq": zero}
        return {**state, "max_exp_avg_sq": zero} if group["amsgrad"] else state

    def update(
        self, group: dict[str, Any], value: Tensor, gradient: Tensor, state: Held
    ) -> tuple[Tensor, Held]:
        lr, (b1, b2) = group["lr"], group["betas"]
        if group.get("decoupled_weight_decay", self.decoupled):
            step = raw({**group, "weight_decay": 0}, value, gradient)
            value = value * (1 - lr * group["weight_decay"])
        else:
            step = raw(group, value, gradient)
        state = {
            **state,
            "step": state["step"] + 1,
            "exp_avg": b1 * state["exp_avg"] + (1 - b1) * step,
            "exp_avg_sq": b2 * state["exp_avg_sq"] + (1 - b2) * step * step,
        }
        second = state["exp_avg_sq"]
        if group["amsgrad"]:
            second = torch.maximum(state["max_exp_avg_sq"], second)
            state["max_exp_avg_sq"] = second
        count = _count(state["step"])
        change = quotient(state["exp_avg"], second / (1 - b2**count), group["eps"])
        return value - lr / (1 - b1**count) * change, state


@dataclass(frozen=True)
class RMSpropTrajectory(AbstractTrajectory):
    """`torch.optim.RMSprop`.

    d = +-g + weight_decay w;   v' = a v + (1 - a) d^2;   m' = a m + (1 - a) d, if centered
    u = d / (sqrt(v' - m'^2) + eps);   b' = momentum b + u;   w' = w - lr b'

    A centred square that rounding makes negative gives what torch gives: not a number.
    """

    def fresh(self, optimizer: Any, group: dict[str, Any], parameter: Tensor) -> Held:
        zero = torch.zeros_like(parameter)
        state = {"step": new_step(group, parameter), "square_avg": zero}
        if given(group["momentum"]):
            state["momentum_buffer"] = zero
        if group["centered"]:
            state["grad_avg"] = zero
        return state

    def update(
        self, group: dict[str, Any], value: Tensor, gradient: Tensor, state: Held
    ) -> tuple[Tensor, Held]:
        step, a = raw(group, value, gradient), group["alpha"]
        second = a * state["square_avg"] + (1 - a) * step * step
        state = {**state, "step": state["step"] + 1, "square_avg": second}
        if group["centered"]:
            mean = a * state["grad_avg"] + (1 - a) * step
            state["grad_avg"] = mean
            second = second - mean * mean
        change = quotient(step, second, group["eps"])
        if given(group["momentum"]):
            before = state.get("momentum_buffer", 0.0)  # none where torch has seen a zero
            change = group["momentum"] * before + change
            state["momentum_buffer"] = change
        return value - group["lr"] * change, state


@dataclass(frozen=True)
class AdagradTrajectory(AbstractTrajectory):
    """`torch.optim.Adagrad`.

    d = +-g + weight_decay w;   s' = s + d^2
    w' = w - lr / (1 + (t - 1) lr_decay) d / (sqrt(s') + eps)

    At the first step from s = 0 the derivative by d is next to nothing, as Adam's is.
    """

    def fresh(self, optimizer: Any, group: dict[str, Any], parameter: Tensor) -> Held:
        # torch reads the default here, whatever the group says
        start = optimizer.defaults["initial_accumulator_value"]
        fill = complex(start, start) if parameter.is_complex() else start
        return {"step": new_step(group, parameter), "sum": torch.full_like(parameter, fill)}

    def update(
        self, group: dict[str, Any], value: Tensor, gradient: Tensor, state: Held
    ) -> tuple[Tensor, Held]:
        step = raw(group, value, gradient)
        state = {**state, "step": state["step"] + 1, "sum": state["sum"] + step * step}
        size = group["lr"] / (1 + (_count(state["step"]) - 1) * group["lr_decay"])
        return value - size * quotient(step, state["sum"], group["eps"]), state


@dataclass(frozen=True)
class AdadeltaTrajectory(AbstractTrajectory):
    """`torch.optim.Adadelta`.

        d = +-g + weight_decay w;   v' = rho v + (1 - rho) d^2;   x = sqrt((u + eps)/(v' + eps)) d
        u' = rho u + (1 - rho) x^2;   w' = w - lr x

    Its eps is inside of the roots: no derivative needs a guard.
    """

    def fresh(self, optimizer: Any, group: dict[str, Any], parameter: Tensor) -> Held:
        zero = torch.zeros_like(parameter)
        return {"step": new_step(group, parameter), "square_avg": zero, "acc_delta": zero}

    def update(
        self, group: dict[str, Any], value: Tensor, gradient: Tensor, state: Held
    ) -> tuple[Tensor, Held]:
        step, rho, eps = raw(group, value, gradient), group["rho"], group["eps"]
        second = rho * state["square_avg"] + (1 - rho) * step * step
        change = (state["acc_delta"] + eps).sqrt() / (second + eps).sqrt() * step
        return value - group["lr"] * change, {
            **state,
            "step": state["step"] + 1,
            "square_avg": second,
            "acc_delta": rho * state["acc_delta"] + (1 - rho) * change * change,
        }


# By exact type: a subclass may update otherwise.
_RULES: dict[type, AbstractTrajectory] = {
    torch.optim.SGD: SGDTrajectory(),
    torch.optim.Adam: AdamTrajectory(decoupled=False),
    torch.optim.AdamW: AdamTrajectory(decoupled=True),
    torch.optim.RMSprop: RMSpropTrajectory(),
    torch.optim.Adagrad: AdagradTrajectory(),
    torch.optim.Adadelta: AdadeltaTrajectory(),
}


def rule_of(optimizer: Any, name: str) -> AbstractTrajectory:
    """The optimizer as a differentiable function.

    Args:
        optimizer: an instance of `torch.optim.SGD`, `Adam`, `AdamW`, `RMSprop`, `Adagrad` or
            `Adadelta`.
        name: the problem's label, for the error.

    Returns:
        The rule.

    Raises:
        GraphError: the optimizer's update is not known here.
    """
    rule = _RULES.get(type(optimizer))
    if rule is None:
        known = ", ".join(t.__name__ for t in _RULES)
        raise GraphError(
            f"{name}: no derivative is known through the steps of {type(optimizer).__name__} "
            f"(known: {known}). Give one of these as the problem's optimizer."
        )
    return rule


def _count(step: Tensor) -> Any:
    """The number of steps, in double precision: torch keeps it in float32."""
    # on an accelerator it stays a tensor, because its value would have to be waited for
    return step.item() if step.device.type == "cpu" else step.double()
