"""Numbers of an optimizer that are refused: where it is given, or when the graph is made."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from case_graphs import parameter
from compare import exact, rounding
from hypergrad.learned_world import CPU, STEP, World, number
from small import bilevel
from torch import nn

import mlopt
from mlopt import Frozen, Implicit, OneStep, Unrolled, penalty
from mlopt._errors import GraphError


def test_a_number_is_declared() -> None:
    world = World(Unrolled(3), "sgd", "lr", declared=False)
    with pytest.raises(GraphError, match=r"low: its optimizer takes h as its lr.*Put h into given"):
        world.engine()


def test_a_number_is_moved_above_its_problem() -> None:
    world = World(Unrolled(3), "sgd", "lr")
    with pytest.raises(GraphError, match="low: its optimizer takes h as its lr, which up, which"):
        mlopt.Engine([world.up, world.low])
    W, H = mlopt.Variable(parameter(CPU, 5, 3), "w"), mlopt.Variable(number(0.1), "h")

    @mlopt.problem(over=[W, H], optimizer=torch.optim.SGD([W.tensor, H.tensor], lr=H.tensor))
    def both(own):
        return own[0].sum() * own[1]

    with pytest.raises(GraphError, match="both: its optimizer takes h as its lr, which it is itse"):
        mlopt.Engine([both])


def test_a_scheduler_does_not_write_what_is_learned() -> None:
    world = World(Unrolled(3), "sgd", "lr")
    world.low.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(world.low.optimizer)
    with pytest.raises(GraphError, match="takes h as its lr, and its scheduler writes there"):
        world.engine()


def test_a_stopped_number_that_a_look_ahead_would_not_follow() -> None:
    W, H, T = (
        mlopt.Variable(p, n)
        for p, n in [(parameter(CPU, 5, 3), "w"), (number(0.1), "h"), (number(0.1), "t")]
    )

    @mlopt.problem(over=W, given=[mlopt.stop(H)], hypergrad=OneStep(),
                   optimizer=torch.optim.SGD(W.parameters(), lr=H.tensor))  # fmt: skip
    def low(w, h):
        return w.square().sum()

    @mlopt.problem(over=H, given=[W, T], hypergrad=OneStep(lr=0.1))
    def middle(h, w, t):
        return (h - t) ** 2 * w.sum()

    @mlopt.problem(over=T, given=[W, H])
    def top(t, w, h):
        return h * w.sum()

    with pytest.raises(GraphError, match=r"low: OneStep\(\) takes the optimizer's lr, which is h"):
        mlopt.Engine([low, middle, top])


def test_a_number_that_is_given_between_steps() -> None:
    """What was a number, and is a variable's tensor, or computed from one, by the next step."""
    W, H = mlopt.Variable(parameter(CPU, 5, 3), "w"), mlopt.Variable(number(0.1), "h")
    optimizer = torch.optim.SGD(W.parameters(), lr=0.1)

    @mlopt.problem(over=W, given=[H], optimizer=optimizer, hypergrad=OneStep())
    def low(w, h):
        return h * w.square().sum()

    @mlopt.problem(over=H, given=[W], optimizer=torch.optim.SGD(H.parameters(), lr=0.1))
    def up(h, w):
        return w.sum()

    engine = mlopt.Engine([low, up])
    engine.step()
    optimizer.param_groups[0]["lr"] = H.tensor
    with pytest.raises(GraphError, match=r"low: OneStep\(\) takes the optimizer's lr, which is h"):
        engine.step()
    optimizer.param_groups[0]["lr"] = H.tensor.exp()
    with pytest.raises(GraphError, match="low: the lr of its optimizer is computed from tensors"):
        engine.step()
    optimizer.param_groups[0]["lr"] = H.tensor.detach().exp()
    engine.step()


@pytest.mark.parametrize("method", [Unrolled(3), OneStep(), Frozen()])
def test_a_number_that_is_computed_is_no_number(method: Any) -> None:
    W, H = mlopt.Variable(parameter(CPU, 5, 3), "w"), mlopt.Variable(number(-3.0), "h")
    optimizer = torch.optim.SGD(W.parameters(), lr=H.tensor.exp())
    with pytest.raises(GraphError, match=r"low: the lr of its optimizer is computed .* lr=H\.tens"):

        @mlopt.problem(over=W, given=[H], optimizer=optimizer, hypergrad=method)
        def low(w, h):
            return w.sum()


@pytest.mark.parametrize("method", [OneStep(), Implicit(), Frozen(), None])
def test_torchs_differentiable_is_refused_where_the_optimizer_steps(method: Any) -> None:
    W = mlopt.Variable(parameter(CPU, 5, 3), "w")
    optimizer = torch.optim.SGD(W.parameters(), lr=0.1, differentiable=True)

    @mlopt.problem(over=W, optimizer=optimizer, hypergrad=method)
    def low(w):
        return w.square().sum()

    with pytest.raises(GraphError, match="low: its optimizer has differentiable=True"):
        mlopt.Engine([low])


def test_torchs_differentiable_goes_with_steps_that_are_gone_back_through() -> None:
    world = World(Unrolled(3), "sgd", "lr")
    world.low.optimizer.param_groups[0]["differentiable"] = True
    exact(world.hypergradient(), world.expected("sgd", "lr", 3), rounding(3 * STEP, condition=20))
    world.engine().run(steps=2, progress=False)


def test_a_number_is_one() -> None:
    W = mlopt.Variable(parameter(CPU, 5, 3), "w")
    optimizer = torch.optim.SGD(W.parameters(), lr=0.1)
    optimizer.param_groups[0]["momentum"] = torch.full((3,), 0.5)

    @mlopt.problem(over=W, optimizer=optimizer, hypergrad=Unrolled(2))
    def low(w):
        return w.square().sum()

    with pytest.raises(GraphError, match=r"low: its optimizer has a momentum of shape \(3,\)"):
        mlopt.Engine([low])


@pytest.mark.parametrize("method", ["f2sa", "bome"])
def test_penalty_methods_refuse(method: str) -> None:
    case = bilevel()
    own = next(iter(case.upper.over[0].parameters()))
    case.lower.optimizer.param_groups[0]["lr"] = own
    options = {"f2sa": {"weight": 1.0}, "bome": {"inner_steps": 1, "inner_lr": 0.1}}[method]
    with pytest.raises(GraphError, match=f"{method}: fit's optimizer takes a as its lr"):
        getattr(penalty, method)(lower=case.lower, upper=case.upper, **options)


def test_a_number_of_a_method_is_a_constant() -> None:
    with pytest.raises(GraphError, match=re.escape("It requires grad, and would be taken for a")):
        OneStep(lr=nn.Parameter(torch.tensor(0.1)))
