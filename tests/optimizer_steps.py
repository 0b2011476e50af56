"""The steps of optimizers: written out and differentiable, or by their own `step()` on copies."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def sgd_step(group: dict[str, Any], state: dict[str, Any], w: Tensor, g: Tensor) -> Tensor:
    """What torch.optim.SGD does, for one tensor, differentiable in g."""
    d = -g if group["maximize"] else g
    d = d + group["weight_decay"] * w
    if group["momentum"] == 0:
        return w - group["lr"] * d
    buffer = state.get("momentum_buffer")
    b = d if buffer is None else group["momentum"] * buffer + (1 - group["dampening"]) * d
    return w - group["lr"] * (d + group["momentum"] * b if group["nesterov"] else b)


def decouples(optimizer: Any, group: dict[str, Any]) -> bool:
    """Whether weight decay bypasses the moments; in torch 2.6 a class says so, not an option."""
    return group.get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW))


def adam_step(
    group: dict[str, Any],
    state: dict[str, Any],
    w: Tensor,
    g: Tensor,
    decoupled: bool,
    held: bool = True,
) -> Tensor:
    """What torch.optim.Adam (or AdamW) does, in g differentiable; the second moment held or not."""
    b1, b2 = group["betas"]
    d = -g if group["maximize"] else g
    if not decoupled:
        d = d + group["weight_decay"] * w
    t = float(state["step"]) + 1 if state else 1.0
    m = b1 * state.get("exp_avg", 0.0) + (1 - b1) * d
    v = b2 * state.get("exp_avg_sq", 0.0) + (1 - b2) * (d.detach() if held else d) ** 2
    if group["amsgrad"]:
        v = torch.maximum(v, state.get("max_exp_avg_sq", v))
    if decoupled:
        w = w * (1 - group["lr"] * group["weight_decay"])
    scale = (v / (1 - b2**t)).sqrt() + group["eps"]
    return w - group["lr"] / (1 - b1**t) * m / scale


def optimizer_step(
    optimizer: Any, parameter: Tensor, w: Tensor, g: Tensor, held: bool = True
) -> Tensor:
    """The update of one parameter by its optimizer, as a differentiable function of (w, g)."""
    for group in optimizer.param_groups:
        if any(p is parameter for p in group["params"]):
            state = dict(optimizer.state.get(parameter, {}))
            if isinstance(optimizer, torch.optim.SGD):
                return sgd_step(group, state, w, g)
            return adam_step(group, state, w, g, decouples(optimizer, group), held)
    return w


def torch_update(
    optimizer: Any,
    parameters: list[Tensor],
    gradients: list[Tensor | None],
    edit: Callable[[Any, list[Tensor]], None] | None = None,
) -> list[Tensor]:
    """What torch's own `step()` gives, on copies of the optimizer and the parameters."""
    clones = {id(p): nn.Parameter(p.detach().clone()) for p in parameters}
    memo: dict[int, Any] = dict(clones)
    for group in optimizer.param_groups:
        for p in group["params"]:
            memo.setdefault(id(p), nn.Parameter(p.detach().clone()))
    twin = copy.deepcopy(optimizer, memo)
    ordered = [clones[id(p)] for p in parameters]
    if edit is not None:
        edit(twin, ordered)
    for clone, gradient in zip(ordered, gradients, strict=True):
        clone.grad = None if gradient is None else gradient.detach().clone()
    twin.step()
    return [c.detach() for c in ordered]


def numerical_derivative(f: Callable[[Tensor], Tensor], x: Tensor, h: float = 1e-5) -> Tensor:
    """The dense Jacobian of f at x, by central differences: (size of f) x (size of x)."""
    columns = []
    for i in range(x.numel()):
        e = torch.zeros_like(x).view(-1)
        e[i] = h
        e = e.view_as(x)
        columns.append(((f(x + e) - f(x - e)) / (2 * h)).reshape(-1))
    return torch.stack(columns, dim=1)


def carried_step(
    optimizer: Any, parameter: Tensor, w: Tensor, g: Tensor, state: dict[Any, Any], k: int
) -> Tensor:
    """One update of a parameter, its momentum carried on from step to step in `state`."""
    if not isinstance(optimizer, torch.optim.SGD):
        assert k == 1, "several steps ahead: SGD only"
        return optimizer_step(optimizer, parameter, w, g)
    group = next(
        group for group in optimizer.param_groups if any(p is parameter for p in group["params"])
    )
    d = (-g if group["maximize"] else g) + group["weight_decay"] * w
    if group["momentum"] == 0:
        return w - group["lr"] * d
    past = state.get(parameter, optimizer.state.get(parameter, {}).get("momentum_buffer"))
    b = d if past is None else group["momentum"] * past + (1 - group["dampening"]) * d
    state[parameter] = b
    return w - group["lr"] * (d + group["momentum"] * b if group["nesterov"] else b)
