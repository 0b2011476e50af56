"""An upper problem that gets no gradient: what the first check advises is followed, and right."""

from __future__ import annotations

import re

import pytest
import torch
from bad_input import A, V, W, fit, over_w, refused_at_the_first_step
from compare import exact, rounding
from small import sgd

import mlopt
from mlopt import GraphError

ROUNDING = rounding(60)


def upper_of(w):
    """What the upper level makes of the lower solution alone."""
    return (w - 0.3).square().sum()


def over_a(*given, fn=None):
    objective = fn or (lambda a, w: upper_of(w))
    return mlopt.problem(over=A, given=[*given], optimizer=sgd(A), name="up")(objective)


def plain_hypergradient():
    """Through one gradient step of `fit` with the learning rate of `over_w`."""
    w, a = (v.tensor.detach().requires_grad_() for v in (W, A))
    (g,) = torch.autograd.grad(fit(w, a), w, create_graph=True)
    return torch.autograd.grad(upper_of(w - 0.1 * g), a)[0]


def moves_as_a_plain_loop(problems, **options):
    found = mlopt.Engine(problems, **options).hypergradient(problems[-1])[A][""]
    exact(found, plain_hypergradient(), ROUNDING)


def test_upper_first():
    low, up = over_w(), over_a(W)
    message = (
        r"up never uses a, which it is minimised over\. fit reads it.*list fit before up: "
        "problems are listed from the lowest level to the highest"
    )
    refused_at_the_first_step([up, low], match=message)
    with pytest.raises(GraphError, match=message):
        mlopt.Engine([up, low], hypergrad=mlopt.OneStep()).step()
    moves_as_a_plain_loop([low, up], hypergrad=mlopt.OneStep())


def test_order_through_another_level_and_a_signal():
    """The whole order is named: signals have a place in it, too."""
    low = over_w()

    @mlopt.signal(given=[W])
    def shift(w):
        return 2 * w

    @mlopt.problem(over=V, given=[shift], optimizer=sgd(V), hypergrad=mlopt.OneStep())
    def middle(v, shift):
        return (v - shift).square().sum()

    up = over_a(V)
    refused_at_the_first_step(
        [shift, up, middle, low], match="list fit before shift before middle before up: "
    )
    listed = [low, shift, middle, up]
    found = mlopt.Engine(listed, hypergrad=mlopt.OneStep()).hypergradient(up)[A][""]
    w, a, v = (x.tensor.detach().requires_grad_() for x in (W, A, V))
    (g,) = torch.autograd.grad(fit(w, a), w, create_graph=True)
    moved = v - 0.1 * 2 * (v - 2 * (w - 0.1 * g))
    exact(found, torch.autograd.grad(upper_of(moved), a)[0], ROUNDING)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (mlopt.Frozen(), "Frozen()"),
        (mlopt.StopGradient(mlopt.OneStep()), "StopGradient(OneStep())"),
    ],
)
def test_a_method_cuts_the_way(method, name):
    up = over_a(W)
    refused_at_the_first_step(
        [over_w(hypergrad=method), up],
        match=rf"up never uses a.*fit reads it, and {re.escape(name)} lets no gradient come back "
        r"through fit: give fit .* hypergrad=OneStep\(\)",
    )
    moves_as_a_plain_loop([over_w(hypergrad=mlopt.OneStep()), up])


def test_a_stop_cuts_the_way():
    low = over_w(hypergrad=mlopt.OneStep())
    refused_at_the_first_step(
        [low, over_a(mlopt.stop(W))], match=r"up never uses a.*up reads w by stop\(\).*put w itself"
    )
    moves_as_a_plain_loop([low, over_a(W)])


def test_a_variable_that_nothing_reads_is_an_argument_to_be_used():
    @mlopt.problem(over=W, optimizer=sgd(W))
    def alone(w):
        return w.square().sum()

    refused_at_the_first_step(
        [alone, over_a(W)], match="up never uses a, which it is minimised over: use the argument"
    )
    used = over_a(W, fn=lambda a, w: upper_of(w) + a.square().sum())
    found = mlopt.Engine([alone, used], hypergrad=mlopt.Frozen()).hypergradient(used)[A][""]
    exact(found, 2 * A.tensor.detach(), ROUNDING)
