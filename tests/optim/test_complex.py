"""Complex parameters are pairs of real ones: to torch's optimizers, and to their rules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compare import exact, rounding
from optim.runs import BUILDS, SGD, Adam, AdamW
from torch import Tensor, nn

from mlopt._tensors import norm
from mlopt.optim import rule_of, update_of

KEY = (None, "w")
#: Torch's fused optimizers take real ones only.
KINDS = [name for name in BUILDS if not {"groups", "tensor", "fused"} & {*name.split("_")}]
BOUND = rounding(4 * 40, condition=10)


def made(shape: tuple[int, ...]) -> tuple[nn.Parameter, list[Tensor]]:
    """A parameter, and the gradients of some steps."""
    g = torch.Generator().manual_seed(3)
    held = [torch.randn(shape, dtype=torch.complex128, generator=g) for _ in range(4)]
    return nn.Parameter(held[0]), held[1:]


def pairs(t: Tensor) -> Tensor:
    return torch.view_as_real(t.detach().resolve_conj()).clone()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("shape", [(2, 3), ()], ids=str)
def test_steps_are_those_of_torch_and_of_pairs(name: str, shape: tuple[int, ...]) -> None:
    p, gradients = made(shape)
    twin = nn.Parameter(pairs(p))
    ours, theirs = (BUILDS[name]([t]) for t in (p, twin))
    rule = rule_of(ours, "low")
    values = {KEY: p.detach().requires_grad_()}, {KEY: twin.detach().requires_grad_()}
    states: list[Any] = [rule.begin(ours, {KEY: p}), rule.begin(theirs, {KEY: twin})]
    leaves = [v[KEY] for v in values]
    moved = list(values)
    for g in gradients:
        moved[0], states[0] = rule.step(ours, {KEY: p}, moved[0], {KEY: g * moved[0][KEY].conj()},
                                        states[0])  # fmt: skip
        pulled = pairs_of(g * torch.view_as_complex(moved[1][KEY]).conj())
        moved[1], states[1] = rule.step(theirs, {KEY: twin}, moved[1], {KEY: pulled}, states[1])
    exact(pairs(moved[0][KEY]), moved[1][KEY], BOUND)
    weights = gradients[0]
    outer = (moved[0][KEY] * weights.conj()).real.sum()
    other = (moved[1][KEY] * pairs(weights)).sum()
    one, two = torch.autograd.grad(outer, leaves[0])[0], torch.autograd.grad(other, leaves[1])[0]
    exact(pairs(one), two, BOUND)
    # torch's own steps, and a state that they can go on from
    for g in gradients:
        p.grad = g * p.detach().conj()
        ours.step()
    exact(p, moved[0][KEY], BOUND)
    for key, held in ours.state[p].items():
        if isinstance(held, Tensor):
            assert held.dtype == states[0][KEY][key].dtype
            exact(held, states[0][KEY][key], BOUND, scale=1.0, what=key)


def pairs_of(t: Tensor) -> Tensor:
    return torch.view_as_real(t.resolve_conj())


@pytest.mark.parametrize("wide", [False, True])
def test_a_norm_is_of_both_parts(wide: bool) -> None:
    tensors = {KEY: torch.tensor([3.0 + 4.0j, -12.0j]), (None, "empty"): torch.zeros(0)}
    exact(norm(tensors, wide), 13.0, rounding(4, dtype=torch.float32))
    assert norm({(None, "empty"): torch.zeros(0, 2)}, wide) == 0


@pytest.mark.parametrize("past", [0, 2])
@pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
def test_a_look_ahead_and_its_derivative(kind: type, past: int) -> None:
    options = {"momentum": 0.9} if kind is SGD else {"amsgrad": True}
    p, gradients = made((2, 3))
    twin = nn.Parameter(pairs(p))
    ours, theirs = (kind([t], lr=0.1, weight_decay=0.1, **options) for t in (p, twin))
    for g in gradients[:past]:
        p.grad, twin.grad = g.clone(), pairs(g)
        ours.step()
        theirs.step()
    g, c = gradients[2], gradients[1].conj()
    update = update_of(ours, "low")
    found = update.look_ahead(ours, {KEY: p}, {KEY: g})[KEY]
    through = update.derivative(ours, {KEY: p}, {KEY: g}, {KEY: c})[KEY]
    exact(pairs(found), update.look_ahead(theirs, {KEY: twin}, {KEY: pairs(g)})[KEY], BOUND)
    expected = update.derivative(theirs, {KEY: twin}, {KEY: pairs(g)}, {KEY: pairs(c)})[KEY]
    exact(pairs(through), expected, BOUND)
    p.grad = g.clone()
    ours.step()
    exact(found, p, BOUND)
