"""Optimizers of every kind, and runs of them by torch and by their rules."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from case_graphs import tensor
from cases import warmed
from compare import exact, kills, rounding
from torch import Tensor, nn

from mlopt.optim import rule_of

SGD, Adam, AdamW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
RMSprop, Adagrad, Adadelta = torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adadelta
Build = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def build(kind: type, **options: Any) -> Build:
    return lambda parameters: kind(parameters, **copy.deepcopy(options))


def two_groups(kind: type, first: dict[str, Any], second: dict[str, Any], **shared: Any) -> Build:
    return lambda ps: kind(
        [{"params": ps[:1], **first}, {"params": ps[1:], **second}], lr=0.1, **shared
    )


def lr(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


BUILDS: dict[str, Build] = {
    "sgd": build(SGD, lr=0.1),
    "sgd_decay": build(SGD, lr=0.1, weight_decay=0.2),
    "sgd_maximize": build(SGD, lr=0.02, weight_decay=0.2, maximize=True),
    "sgd_momentum": build(SGD, lr=0.05, momentum=0.8, weight_decay=0.1),
    "sgd_dampening": build(SGD, lr=0.1, momentum=0.8, dampening=0.4),
    "sgd_nesterov": build(SGD, lr=0.05, momentum=0.7, nesterov=True, weight_decay=0.1),
    "sgd_nesterov_maximize": build(SGD, lr=0.02, momentum=0.5, nesterov=True, maximize=True),
    "sgd_lr_tensor": build(SGD, lr=lr(0.1), momentum=0.8, foreach=False),
    "sgd_tensors": build(
        SGD, lr=lr(0.05), momentum=lr(0.8), dampening=lr(0.3), weight_decay=lr(0.1), foreach=False
    ),
    "sgd_zeros": build(
        SGD, lr=lr(0.05), momentum=lr(0.0), dampening=lr(0.3), weight_decay=lr(0.0), foreach=False
    ),
    "sgd_groups": two_groups(
        SGD,
        {"lr": 0.05, "momentum": 0.8, "dampening": 0.2},
        {"lr": 0.1, "weight_decay": 0.1},
    ),
    "rmsprop": build(RMSprop, lr=0.03),
    "rmsprop_decay": build(RMSprop, lr=0.03, weight_decay=0.2, alpha=0.9),
    "rmsprop_momentum": build(RMSprop, lr=0.02, momentum=0.7),
    "rmsprop_centered": build(RMSprop, lr=0.02, centered=True),
    "rmsprop_all": build(
        RMSprop, lr=0.01, momentum=0.6, centered=True, weight_decay=0.1, maximize=True
    ),
    "rmsprop_lr_tensor": build(RMSprop, lr=lr(0.03)),
    "rmsprop_tensors": build(
        RMSprop, lr=lr(0.02), alpha=lr(0.9), momentum=lr(0.7), eps=lr(1e-3), weight_decay=lr(0.1)
    ),
    "rmsprop_groups": two_groups(
        RMSprop, {"momentum": 0.5, "eps": 1e-3}, {"lr": 0.02, "centered": True, "alpha": 0.9}
    ),
    "adagrad": build(Adagrad, lr=0.2),
    "adagrad_decay": build(Adagrad, lr=0.2, lr_decay=0.1, weight_decay=0.2),
    "adagrad_initial": build(Adagrad, lr=0.2, initial_accumulator_value=0.3),
    "adagrad_maximize": build(Adagrad, lr=0.1, lr_decay=0.05, weight_decay=0.2, maximize=True),
    "adagrad_lr_tensor": build(Adagrad, lr=lr(0.2), lr_decay=0.1),
    "adagrad_tensors": build(
        Adagrad, lr=lr(0.2), lr_decay=lr(0.1), eps=lr(1e-3), weight_decay=lr(0.1)
    ),
    "adagrad_groups": two_groups(
        Adagrad,
        {"lr_decay": 0.2},
        {"lr": 0.3, "weight_decay": 0.1, "maximize": True},
        initial_accumulator_value=0.1,
    ),
    "adadelta": build(Adadelta, lr=1.0),
    "adadelta_decay": build(Adadelta, lr=0.7, rho=0.8, weight_decay=0.2, eps=1e-3),
    "adadelta_tensors": build(
        Adadelta, lr=lr(0.7), rho=lr(0.8), eps=lr(1e-3), weight_decay=lr(0.1)
    ),
    "adadelta_maximize": build(Adadelta, lr=0.5, weight_decay=0.2, maximize=True),
}
for kind in (Adam, AdamW):
    name = kind.__name__.lower()
    BUILDS |= {
        name: build(kind, lr=0.05, weight_decay=0.0),
        f"{name}_decay": build(kind, lr=0.05, weight_decay=0.3, betas=(0.5, 0.9)),
        f"{name}_amsgrad": build(kind, lr=0.05, weight_decay=0.1, betas=(0.8, 0.9), amsgrad=True),
        f"{name}_maximize": build(kind, lr=0.02, weight_decay=0.2, maximize=True),
        f"{name}_lr_tensor": build(kind, lr=lr(0.05), foreach=False),
        f"{name}_tensors": build(
            kind,
            lr=lr(0.05),
            betas=(lr(0.5), lr(0.9)),
            eps=lr(1e-3),
            weight_decay=lr(0.1),
            foreach=False,
        ),
        f"{name}_fused": build(kind, lr=0.05, fused=True),
        f"{name}_groups": two_groups(
            kind,
            {"lr": 0.03, "betas": (0.5, 0.99)},
            {"lr": 0.05, "weight_decay": 0.3, "amsgrad": True, "eps": 1e-3},
        ),
    }
if "decoupled_weight_decay" in inspect.signature(Adam).parameters:  # since torch 2.7
    BUILDS["adam_decoupled"] = build(Adam, lr=0.05, weight_decay=0.3, decoupled_weight_decay=True)

KEYS = [("v", "w"), ("v", "m"), ("v", "idle")]
W, M, IDLE = KEYS
#: An optimizer's state before the first step: none, or that of three steps.
PASTS = (0, 3)


def objective(values: dict[Any, Tensor], r: Tensor) -> Tensor:
    """Smooth, not quadratic, coupling everything; it does not use the third parameter."""
    w, m = values[W], values[M]
    t = torch.tensor([1.0, -2.0, 0.5], dtype=w.dtype, device=w.device)
    return (
        torch.log(torch.cosh(w - r * t)).sum()
        + torch.exp(0.3 * r) * torch.cos(m).sum()
        + 0.1 * torch.tanh(w.sum() + r) * (m**2).sum()
    )


#: Thirty steps of 30 operations of the objective and its gradient, and 30 of the update: a quotient
#: of two moments whose terms are twice their sum.
MANY_STEPS = rounding(30 * (30 + 30), condition=2 * 2)


class Run:
    """Three parameters and an optimizer of them with a past."""

    def __init__(self, made: Build, past: int, device: torch.device, eps: float | None = None):
        self.tensors = [
            nn.Parameter(tensor(device, 1, 3)),
            nn.Parameter(tensor(device, 2, 1, 2)),
            nn.Parameter(tensor(device, 3, 2)),
        ]
        self.parameters: dict[Any, Tensor] = dict(zip(KEYS, self.tensors, strict=True))
        self.optimizer = made(self.tensors)
        for group in self.optimizer.param_groups:
            if eps is not None and "eps" in group:
                group["eps"] = eps
        warmed(self.optimizer, past)
        self.rule = rule_of(self.optimizer, "test")

    def twin(self) -> Run:
        return copy.deepcopy(self)

    def values(self) -> dict[Any, Tensor]:
        return {k: p.detach().clone() for k, p in self.parameters.items()}

    def real(self, r: Tensor, steps: range, skip: int = 0) -> None:
        """Torch's own steps; every skip-th one without a gradient of m."""
        for i in steps:
            self.optimizer.zero_grad(set_to_none=True)
            objective(self.parameters, r.detach()).backward()
            if skip and i % skip == 0:
                self.parameters[M].grad = None
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def ours(
        self, values: dict[Any, Tensor], r: Tensor, steps: range, skip: int = 0, state: Any = None
    ) -> tuple[dict[Any, Tensor], Any]:
        state = self.rule.begin(self.optimizer, self.parameters) if state is None else state
        for i in steps:
            # a value that stayed is in the graph of the earlier steps too: an alias is not
            points = {k: v.clone().requires_grad_() for k, v in values.items()}
            found = torch.autograd.grad(
                objective(points, r), [points[W], points[M]], create_graph=True
            )
            gradients = dict(zip((W, M), found, strict=True))
            if skip and i % skip == 0:
                del gradients[M]
            values, state = self.rule.step(
                self.optimizer, self.parameters, values, gradients, state
            )
        return values, state

    def fingerprint(self) -> list[Any]:
        """All that must not change, with the counters of writes in place."""
        tensors = [*self.tensors, *(t for s in self.optimizer.state.values() for t in s.values())]
        return [str(self.optimizer.state_dict()), [(id(t), t._version) for t in tensors]]


def scalar(device: torch.device, x: float = 0.7) -> Tensor:
    return torch.tensor(x, dtype=torch.float64, device=device)


def assert_same_state(found: Any, optimizer: Any, parameters: dict[Any, Tensor]) -> None:
    for key, p in parameters.items():
        expected = optimizer.state.get(p, {})
        assert set(found[key]) == set(expected), key
        for name, tensor_ in expected.items():
            ours = found[key][name]
            assert (ours.dtype, ours.device) == (tensor_.dtype, tensor_.device), name
            # An update is the rate times the state: what rounding makes of the parameters it makes
            # of the state, divided by the rate, however small that is near a minimum.
            (group,) = [g for g in optimizer.param_groups if any(q is p for q in g["params"])]
            scale = max(tensor_.norm().item(), p.norm().item() / float(group["lr"]))
            if tensor_.norm() > 1e-9 * scale:
                kills(2 * tensor_, tensor_, MANY_STEPS, scale=scale)
            exact(ours, tensor_, MANY_STEPS, scale=scale, what=f"{key} {name}")


def assert_same_dtype(state: Any, dtype: torch.dtype) -> None:
    for held in state.values():
        assert all(t.dtype == dtype for n, t in held.items() if n != "step")
