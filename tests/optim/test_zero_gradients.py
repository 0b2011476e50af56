"""The derivatives of optimizers where a gradient was zero all along, or nearly."""

from __future__ import annotations

import pytest
import torch
from case_graphs import parameter, tensor
from compare import exact, rounding
from optim.runs import SGD, Adadelta, Adagrad, Adam, AdamW, RMSprop, W, assert_same_dtype, build, lr
from torch import Tensor, nn

from mlopt.optim import rule_of

# Where a gradient was zero all along.

DEAD = {
    "adam": build(Adam, lr=0.05),
    "adam_amsgrad": build(Adam, lr=0.05, amsgrad=True),
    "adamw": build(AdamW, lr=0.05, weight_decay=0.1),
    "rmsprop": build(RMSprop, lr=0.05),
    "rmsprop_all": build(RMSprop, lr=0.05, centered=True, momentum=0.5),
    "adagrad": build(Adagrad, lr=0.05),
    "adadelta": build(Adadelta, lr=0.5),
    "sgd": build(SGD, lr=0.1, momentum=0.9),
}


@pytest.mark.parametrize("wakes", [False, True])
@pytest.mark.parametrize("name", DEAD)
def test_dead_units(name: str, wakes: bool, device: torch.device) -> None:
    """The gradient of the second coordinate is r[1], which is zero, but not its derivative by r."""
    p = parameter(device, 1, 3)
    optimizer, parameters = DEAD[name]([p]), {W: p}
    rule = rule_of(optimizer, "test")
    r0 = torch.tensor([0.5, 0.0, -0.8], dtype=torch.float64, device=device)

    def loss(w: Tensor, r: Tensor, i: int) -> Tensor:
        alive = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64, device=device)
        if wakes and i >= 3:
            alive = torch.ones_like(alive)
        return (torch.cosh(alive * w) * (1 + r**2) / 2 + r * w).sum()

    start, r = p.detach().clone().requires_grad_(), r0.clone().requires_grad_()
    w, state, values = start, rule.begin(optimizer, parameters), []
    for i in range(5):
        (g,) = torch.autograd.grad(loss(w, r, i), w, create_graph=True)
        moved, state = rule.step(optimizer, parameters, {W: w}, {W: g}, state)
        w = moved[W]
        values.append(w.detach())
    for i, value in enumerate(values):
        p.grad = None
        loss(p, r0, i).backward()
        optimizer.step()
        exact(value, p, rounding(5 * 30, condition=10), what=f"{name} step {i}")
    c = tensor(device, 5, 3)
    total = (c * w).sum() + sum((c * t).sum() for s in state.values() for t in s.values())
    derivatives: list[Tensor] = [total]
    for order in (1, 2, 3):
        derivatives = list(
            torch.autograd.grad(sum(d.sum() for d in derivatives), (start, r), create_graph=True)
        )
        for d in derivatives:
            assert d.isfinite().all(), f"{name} order {order}: {d}"
            assert d[[0, 2]].all(), f"{name} order {order}: {d}"
    if not wakes and name not in ("adadelta", "sgd"):
        assert torch.autograd.grad(w[1], r)[0][1] == 0.0, "the derivative is defined as zero"


@pytest.mark.parametrize("name", [n for n in DEAD if n not in ("adadelta", "sgd")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_derivative_by_a_gradient_of_zero_or_of_underflow_is_zero(
    name: str, dtype: torch.dtype, device: torch.device
) -> None:
    tiny = torch.finfo(dtype).tiny
    p = nn.Parameter(torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=dtype, device=device))
    # squares: zero, zero by underflow, below the normal numbers, normal
    g0 = torch.tensor([0.0, tiny**0.75, tiny**0.5 / 100, 0.5], dtype=dtype, device=device)
    optimizer, parameters = DEAD[name]([p]), {W: p}
    optimizer.param_groups[0]["eps"] = 1e-3
    rule, g = rule_of(optimizer, "test"), g0.clone().requires_grad_()
    moved, state = rule.step(optimizer, parameters, {W: p.detach()}, {W: g}, {})
    p.grad = g0
    optimizer.step()
    exact(moved[W], p, rounding(8, dtype=dtype))
    assert_same_dtype(state, dtype)
    (first,) = torch.autograd.grad(moved[W].sum(), g, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), g)
    for d in (first.detach(), second):
        assert torch.equal(d[:3], torch.zeros_like(d[:3])), d
        assert d[3].isfinite()
        assert d[3] != 0


@pytest.mark.parametrize("kind", [Adam, Adagrad])
def test_first_step_from_a_fresh_state_is_the_sign_but_for_eps(
    kind: type, device: torch.device
) -> None:
    """The update is lr g / (|g| + eps), its derivative lr eps / (|g| + eps)^2."""
    p = parameter(device, 1, 3)
    optimizer = kind([p], lr=0.1, eps=1e-8)
    g = torch.tensor([1e-7, -1e-8, 1e-6], dtype=torch.float64, device=device, requires_grad=True)
    moved, _ = rule_of(optimizer, "test").step(optimizer, {W: p}, {W: p.detach()}, {W: g}, {})
    found = torch.autograd.grad(moved[W].sum(), g)[0]
    expected = -0.1 * 1e-8 / (g.detach().abs() + 1e-8) ** 2
    # g / (|g| + eps), and the same with opposite sign: their difference is a hundredth of them
    exact(found, expected, rounding(20, condition=1000))


@pytest.mark.parametrize("name", DEAD)
def test_a_scalar_parameter_keeps_its_precision(name: str, device: torch.device) -> None:
    p = nn.Parameter(torch.tensor(1.0, device=device))
    optimizer = DEAD[name]([p])
    optimizer.param_groups[0]["lr"] = lr(0.1)
    rule, g = rule_of(optimizer, "test"), torch.tensor(0.3, device=device)
    moved, state = rule.step(optimizer, {W: p}, {W: p.detach()}, {W: g}, {})
    assert moved[W].dtype is torch.float32
    assert moved[W].shape == ()
    assert_same_dtype(state, torch.float32)
