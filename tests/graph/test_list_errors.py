"""Bad lists of problems and signals, and nesting: refused, with node and remedy."""

from __future__ import annotations

import pytest
import torch
from bad_input import A, V, W, fit, over_a, over_w, tensor, tune
from small import sgd, state_of
from torch import nn

import mlopt
from mlopt import GraphError

# What the list holds.


def test_signal_that_is_not_listed():
    @mlopt.signal(given=[W])
    def size(w):
        return w.square().sum()

    @mlopt.problem(over=A, given=[size])
    def top(a, size):
        return (a - size).square().sum()

    with pytest.raises(GraphError, match=r"top reads the signal size.*not in the list; list it"):
        mlopt.Engine([over_w(), top], hypergrad=mlopt.Frozen())


def test_signal_that_is_listed_above_its_reader():
    @mlopt.signal(given=[W])
    def size(w):
        return w.square().sum()

    @mlopt.problem(over=A, given=[size])
    def top(a, size):
        return (a - size).square().sum()

    with pytest.raises(GraphError, match=r"top reads the signal size.*listed above it"):
        mlopt.Engine([over_w(), top, size], hypergrad=mlopt.Frozen())


def test_variable_without_problem():
    with pytest.raises(GraphError, match=r"fit reads a, and no problem.*List the problem over it"):
        mlopt.Engine([over_w()])


def test_a_problem_read_as_if_it_were_a_variable():
    lower = over_w()

    @mlopt.problem(over=A, given=[lower])
    def top(a, fit):
        return (a - fit).sum()

    with pytest.raises(GraphError, match="top reads the problem fit; read its variable"):
        mlopt.Engine([lower, top], hypergrad=mlopt.Frozen())


def test_problem_listed_twice():
    lower, upper = over_w(), over_a()
    with pytest.raises(GraphError, match="fit is listed twice"):
        mlopt.Engine([lower, upper, lower], hypergrad=mlopt.Frozen())


def test_undecorated_function_and_empty_list():
    with pytest.raises(GraphError, match="holds a function.*not decorated"):
        mlopt.Engine([fit])
    with pytest.raises(GraphError, match="no problem"):
        mlopt.Engine([])


@pytest.mark.parametrize("entries", [None, 3, "fit", {"fit": 1}, torch.zeros(2), W, mlopt.Game])
def test_what_is_no_list(entries):
    for make, option in (
        (mlopt.Engine, "problems"),
        (mlopt.Game, "players"),
        (mlopt.Stack, "members"),
    ):
        with pytest.raises(GraphError, match=rf"{make.__name__}: {option}= takes a list, e.g. "):
            make(entries)


def test_one_problem_or_group_without_a_list():
    alone = mlopt.problem(over=W, optimizer=sgd(W), name="alone")(lambda w: w.sum())
    for make in (mlopt.Engine, mlopt.Stack, mlopt.Game):
        with pytest.raises(GraphError, match="takes a list, e.g. .*got alone alone"):
            make(alone)
    with pytest.raises(GraphError, match="takes a list, e.g. .*got a Stack"):
        mlopt.Engine(mlopt.Stack([alone]))
    mlopt.Engine(p for p in [mlopt.Stack(iter([alone]))])


def test_two_problems_over_one_variable():
    @mlopt.problem(over=W)
    def also(w):
        return w.sum()

    with pytest.raises(GraphError, match=r"w is minimised by fit and by also.*Sum the objectives"):
        mlopt.Engine([over_w(), also, over_a()], hypergrad=mlopt.Frozen())


def test_one_parameter_in_two_variables():
    shared = nn.Linear(3, 1)
    one = mlopt.Variable(shared, "one")
    two = mlopt.Variable(nn.Sequential(nn.Tanh(), shared), "two")

    @mlopt.problem(over=one)
    def first(one):
        return one.weight.sum()

    @mlopt.problem(over=two)
    def second(two):
        return two[1].weight.sum()

    with pytest.raises(GraphError, match=r"two\.1\.weight is also one\.weight.*belongs to one"):
        mlopt.Engine([first, second])


def test_one_optimizer_for_two_problems():
    both = torch.optim.SGD([{"params": W.parameters()}, {"params": A.parameters()}], lr=0.1)
    with pytest.raises(GraphError, match="fit: its optimizer holds a tensor of shape"):
        over_w(optimizer=both)
    joint = [W, A]
    first = mlopt.problem(over=joint, optimizer=both)(lambda wa: (wa[0] * wa[1]).sum())
    assert first.optimizer is both  # one problem over both may have it
    # a late addition gets past the first check, not past the second
    optimizer = sgd(W)
    lower = over_w(optimizer=optimizer)
    other = mlopt.problem(over=A, given=[W])(tune)
    other.optimizer = optimizer
    with pytest.raises(GraphError, match="share one optimizer; give each its own"):
        mlopt.Engine([lower, other], hypergrad=mlopt.Frozen())


# Nesting.


def chain(middle_method):
    """Top differentiates through a nested level: bottom and middle read each other."""

    @mlopt.problem(over=W, given=[V], optimizer=sgd(W), hypergrad=mlopt.OneStep())
    def bottom(w, v):
        return (w - v).square().sum()

    @mlopt.problem(over=V, given=[W, A], optimizer=sgd(V), hypergrad=middle_method)
    def middle(v, w, a):
        return (w * v - a).square().sum()

    @mlopt.problem(over=A, given=[V], optimizer=sgd(A))
    def top(a, v):
        return (a - v).square().sum()

    return [bottom, middle, top]


def test_a_nested_graph_needs_a_method_at_every_level():
    mlopt.Engine(chain(mlopt.OneStep()))
    mlopt.Engine(chain(mlopt.Frozen()))
    with pytest.raises(GraphError, match="Say how gradients pass through middle"):
        mlopt.Engine(chain(None))


def test_a_cycle_of_players_runs_and_moves_both():
    """D24: two players that read each other are a graph, never a recursion and never a no-op."""
    w, v = mlopt.Variable(tensor(), "w"), mlopt.Variable(tensor(), "v")

    @mlopt.problem(over=w, given=[v], optimizer=sgd(w), hypergrad=mlopt.Frozen())
    def first(w, v):
        return (w * v).sum() + w.square().sum()

    @mlopt.problem(over=v, given=[w], optimizer=sgd(v))
    def second(v, w):
        return -(w * v).sum() + v.square().sum()

    engine = mlopt.Engine([first, second])
    before = state_of(engine)
    engine.step()
    for name in ("w values", "v values"):
        assert not torch.equal(before[name][""], state_of(engine)[name][""])
