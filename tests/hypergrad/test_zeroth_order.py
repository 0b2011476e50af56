"""`ZerothOrder`: unbiased where the solution is linear, and of the variance it states."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from case_graphs import parameter, tensor
from compare import kills, near

import mlopt
from mlopt import GraphError, OneStep, ZerothOrder

CPU = torch.device("cpu")


def engine(method: Any, seed: int = 0, curved: float = 0.0) -> tuple[mlopt.Engine, Any, Any]:
    W, R = (mlopt.Variable(parameter(CPU, s, 3), n) for s, n in ((1, "w"), (2, "r")))
    mix = tensor(CPU, 3, 3, 3)

    @mlopt.problem(over=W, given=[R], hypergrad=method)
    def low(w, r):
        return (w * (mix @ r)).sum() + curved * (w * r**3).sum() + (w**2).sum()

    @mlopt.problem(over=R, given=[W])
    def up(r, w):
        return (w**2).sum()

    return mlopt.Engine([low, up], seed=seed), up, R


def draws(method: Any, count: int, curved: float = 0.0) -> torch.Tensor:
    """The hypergradients of as many steps at one point; each step draws anew."""
    made, up, R = engine(method, curved=curved)
    found = []
    for made.steps in range(count):
        found.append(made.hypergradient(up)[R][""])
    return torch.stack(found)


def exact(curved: float = 0.0) -> torch.Tensor:
    return draws(OneStep(lr=0.2), 1, curved)[0]


def test_unbiased_and_its_variance() -> None:
    """For linear s: E = the pullback; E |error|^2 = (d + 1) / samples |pullback|^2, d = dim(r)."""
    expected = exact()
    drawn = draws(ZerothOrder(OneStep(lr=0.2), samples=4), 400)
    squares = ((drawn - expected) ** 2).sum(1) / (expected**2).sum()
    spread, error = squares.mean(), squares.std() / 400**0.5
    why = "five standard errors of 400 draws"
    near(spread, (3 + 1) / 4, 5 * error.item(), scale=1.0, why=why)
    kills(2 * spread, (3 + 1) / 4, 5 * error.item())
    near(drawn.mean(0), expected, 5 * (spread / 400).sqrt().item(), why=why)


def test_bias_is_of_second_order_in_the_radius() -> None:
    """The same displacements, so the difference between two radii is all bias."""
    fine = draws(ZerothOrder(OneStep(lr=0.2), samples=4, radius=1e-4), 20, curved=0.5)
    errors = [
        (draws(ZerothOrder(OneStep(lr=0.2), samples=4, radius=h), 20, curved=0.5) - fine).norm()
        for h in (0.02, 0.2)
    ]
    assert 80 < errors[1] / errors[0] < 120


def test_the_same_seed_gives_the_same_bits_and_each_step_new_ones() -> None:
    made, up, R = engine(ZerothOrder(OneStep(lr=0.2)))
    once, twice = (made.hypergradient(up)[R][""] for _ in range(2))
    assert torch.equal(once, twice)
    made.steps += 1
    assert not torch.equal(once, made.hypergradient(up)[R][""])
    state = torch.random.get_rng_state()
    made.hypergradient(up)
    assert torch.equal(state, torch.random.get_rng_state())


def test_bad_options() -> None:
    with pytest.raises(GraphError, match="OneStep"):
        ZerothOrder(mlopt.Frozen())  # type: ignore[arg-type]
    with pytest.raises(GraphError, match="samples"):
        ZerothOrder(samples=0)
    with pytest.raises(GraphError, match="radius"):
        ZerothOrder(radius=0.0)
