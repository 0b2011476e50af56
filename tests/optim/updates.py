"""Optimizers whose update rules are compared with torch's own steps."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from case_graphs import parameter, tensor
from cases import warmed
from torch import Tensor

from mlopt.optim import update_of

SGD, Adam, AdamW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
Build = Callable[[list[Tensor]], torch.optim.Optimizer]


def build(kind: type, steps: int, **options: Any) -> Build:
    def made(parameters: list[Tensor]) -> torch.optim.Optimizer:
        if isinstance(options.get("lr"), Tensor):
            lr = options["lr"].to(parameters[0].device)
            return warmed(kind(parameters, **copy.deepcopy({**options, "lr": lr})), steps)
        return warmed(kind(parameters, **options), steps)

    return made


def two_groups(kind: type, steps: int, first: dict[str, Any], second: dict[str, Any]) -> Build:
    return lambda ps: warmed(
        kind([{"params": ps[:1], **first}, {"params": ps[1:], **second}], lr=0.1), steps
    )


def half_warm(**options: Any) -> Build:
    """Only one parameter of a group has a past: the other had no gradient so far."""

    def made(parameters: list[Tensor]) -> torch.optim.Optimizer:
        optimizer = SGD(parameters, **options)
        before = parameters[0].detach().clone()
        parameters[0].grad = torch.ones_like(parameters[0])
        optimizer.step()
        with torch.no_grad():
            parameters[0].copy_(before)
        parameters[0].grad = None
        return optimizer

    return made


def lr(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def takes_rates_of_one_number() -> bool:
    """Whether torch's own steps take learning rates of one dimension, as newer ones do."""
    w = torch.ones(2, dtype=torch.float64, requires_grad=True)
    w.grad = torch.ones_like(w)
    try:
        SGD([w], lr=lr(0.1).reshape(1), foreach=False).step()
        Adam([w], lr=lr(0.1).reshape(1), foreach=False).step()
    except (TypeError, ValueError):
        return False
    return True


SGDS: dict[str, Build] = {
    "plain": build(SGD, 0, lr=0.3),
    "decay": build(SGD, 0, lr=0.3, weight_decay=0.2),
    "maximize": build(SGD, 0, lr=0.3, weight_decay=0.2, maximize=True),
    "lr_tensor": build(SGD, 1, lr=lr(0.3), momentum=0.9, weight_decay=0.1, foreach=False),
    "tensors": build(
        SGD, 2, lr=lr(0.3), momentum=lr(0.9), dampening=lr(0.4), weight_decay=lr(0.1), foreach=False
    ),
    "tensors_nesterov": build(
        SGD, 2, lr=lr(0.3), momentum=lr(0.9), nesterov=True, weight_decay=lr(0.1), foreach=False
    ),
    "zeros": build(
        SGD, 2, lr=lr(0.3), momentum=lr(0.0), dampening=lr(0.4), weight_decay=lr(0.0), foreach=False
    ),
    "two_groups": two_groups(
        SGD,
        2,
        {"lr": 0.3, "momentum": 0.9, "dampening": 0.2},
        {"lr": 0.7, "weight_decay": 0.1, "maximize": True},
    ),
    "half_warm": half_warm(lr=0.3, momentum=0.9, dampening=0.5),
    "half_warm_nesterov": half_warm(lr=0.3, momentum=0.9, nesterov=True),
}
for steps in (0, 1, 3):
    SGDS |= {
        f"momentum_{steps}": build(SGD, steps, lr=0.3, momentum=0.9, weight_decay=0.1),
        f"dampening_{steps}": build(SGD, steps, lr=0.3, momentum=0.9, dampening=0.4),
        f"nesterov_{steps}": build(SGD, steps, lr=0.3, momentum=0.9, nesterov=True),
        f"nesterov_max_{steps}": build(
            SGD, steps, lr=0.3, momentum=0.8, nesterov=True, weight_decay=0.1, maximize=True
        ),
        f"dampening_max_{steps}": build(
            SGD, steps, lr=0.3, momentum=0.9, dampening=0.4, maximize=True
        ),
    }

if takes_rates_of_one_number():
    SGDS["lr_of_one"] = build(SGD, 1, lr=lr(0.3).reshape(1), momentum=0.9, foreach=False)

ADAMS: dict[str, Build] = {}
for kind in (Adam, AdamW):
    for steps in (0, 1, 5):
        name = f"{kind.__name__}_{steps}"
        ADAMS |= {
            name: build(kind, steps, lr=0.1, weight_decay=0.0),
            f"{name}_decay": build(kind, steps, lr=0.1, weight_decay=0.3, betas=(0.5, 0.9)),
            f"{name}_amsgrad": build(kind, steps, lr=0.1, weight_decay=0.1, amsgrad=True),
            f"{name}_maximize": build(kind, steps, lr=0.1, weight_decay=0.2, maximize=True),
        }
    ADAMS[f"{kind.__name__}_groups"] = two_groups(
        kind,
        3,
        {"lr": 0.3, "betas": (0.5, 0.99)},
        {"lr": 0.05, "weight_decay": 0.3, "amsgrad": True, "eps": 1e-3},
    )
    ADAMS[f"{kind.__name__}_lr_tensor"] = build(kind, 2, lr=lr(0.1), foreach=False)
    ADAMS[f"{kind.__name__}_tensors"] = build(
        kind, 2, lr=lr(0.1), betas=(lr(0.5), lr(0.9)), eps=lr(1e-3), weight_decay=lr(0.3),
        foreach=False,
    )  # fmt: skip
    if takes_rates_of_one_number():
        ADAMS[f"{kind.__name__}_lr_of_one"] = build(
            kind, 2, lr=lr(0.1).reshape(1), weight_decay=0.3, foreach=False
        )
if "decoupled_weight_decay" in inspect.signature(Adam).parameters:  # since torch 2.7
    ADAMS["Adam_decoupled"] = build(Adam, 2, lr=0.1, weight_decay=0.3, decoupled_weight_decay=True)


class Setup:
    """Two parameters, an optimizer of them, a gradient and a cotangent."""

    def __init__(self, made: Build, device: torch.device) -> None:
        self.tensors = [parameter(device, 1, 3), parameter(device, 2, 2, 2)]
        self.optimizer = made(self.tensors)
        self.gradients = [tensor(device, 3, 3), tensor(device, 4, 2, 2)]
        self.cotangents = [tensor(device, 5, 3), tensor(device, 6, 2, 2)]
        if self.optimizer.param_groups[0].get("amsgrad"):
            # one maximum holds, the other is overtaken by this step's gradient
            for p in self.tensors:
                if state := self.optimizer.state.get(p):
                    state["max_exp_avg_sq"].view(-1)[0] = 10.0
        self.rule = update_of(self.optimizer, "test")

    def named(self, tensors: list[Tensor]) -> dict[Any, Tensor]:
        return {("v", str(i)): t for i, t in enumerate(tensors)}

    def derivative(self) -> list[Tensor]:
        found = self.rule.derivative(
            self.optimizer,
            self.named(self.tensors),
            self.named(self.gradients),
            self.named(self.cotangents),
        )
        return [found["v", str(i)] for i in range(2)]


def flat(tensors: Any) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])
