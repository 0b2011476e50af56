"""The duopoly: the closed form, and where each play leads the regulator."""

from __future__ import annotations

import pytest
import torch
from compare import exact, near, rounding
from grids import thinned

from examples.gallery.duopoly import PLAYS, Market, best_tax, build, equilibrium, solve

LR = 0.2


MARKETS = [Market(), Market(a=8.0, b=0.8, c=(2.0, 1.0), d=1.0, e=(1.0, 0.3))]


@pytest.fixture(params=MARKETS)
def m(request):
    return request.param


def answer(m: Market, name: str) -> torch.Tensor:
    """dq/dt through the steps of a play from the equilibrium, where dF/dq = M q - a + c + t."""
    M = equilibrium(m)[0]
    s = torch.zeros(2, dtype=torch.float64)
    if name.startswith("Simultaneous"):
        return s - LR
    if name.startswith("Extragradient"):
        return -LR * (M @ (s - LR) + 1)
    rounds = int(name.split()[1])
    for i in [0, 1] * rounds:
        s = s.clone()
        s[i] -= LR * (M[i] @ s + 1)
    return s


def test_the_closed_form_is_an_equilibrium_and_the_best(m):
    tax, q = best_tax(m)
    for i in range(2):
        own = q[i].clone().requires_grad_()
        profit = m.profit(i, own, q[1 - i], torch.tensor(tax, dtype=q.dtype))
        # a sum of six terms, none of which is much above a; the quantities are solved for
        slope = torch.autograd.grad(profit, own)[0]
        exact(slope, 0.0, rounding(20, condition=3), scale=m.a)
    _, u, v = equilibrium(m)
    best = m.welfare(*q)
    for other in (tax - 1e-3, tax + 1e-3, 0.0):
        assert m.welfare(*(u - other * v)) < best


@pytest.mark.parametrize(("m", "name"), thinned(2, MARKETS, PLAYS), indirect=["m"])
def test_the_regulator_finds_what_it_sees(m, name):
    """The tax where the welfare does not change along the answer that this play shows."""
    tax, q = best_tax(m, answer(m, name))
    steps = 300 if name.startswith("Extra") else 40 if "5 rounds" in name else 60
    found, quantities = solve(build(m, PLAYS[name], LR), steps)
    near(found, tax, 1e-6, why="the error falls tenfold in 7 steps, in 40 with Extragradient")
    near(quantities, q, 1e-6, why="as that of the tax")


def test_with_many_rounds_it_finds_the_best_tax(m):
    best = best_tax(m)[0]
    *others, many = [best_tax(m, answer(m, name))[0] for name in PLAYS]
    near(many, best, 0.71**25, why="a round leaves 0.71 of the distance to the equilibrium at most")
    assert min(abs(tax - best) for tax in others[:3]) > 0.01 * best
