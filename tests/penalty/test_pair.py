"""What is no pair of levels is refused, by both methods, with what to do."""

from __future__ import annotations

import pytest
import torch
from small import bilevel, sgd
from torch import nn

import mlopt
from mlopt._errors import GraphError
from mlopt.penalty import bome, f2sa

METHODS = {
    "f2sa": lambda lower, upper: f2sa(lower=lower, upper=upper, weight=1.0),
    "bome": lambda lower, upper: bome(lower=lower, upper=upper, inner_steps=1, inner_lr=0.1),
}


@pytest.fixture(params=METHODS)
def method(request):
    return METHODS[request.param]


def test_problems_are_two_and_problems(method) -> None:
    case = bilevel()
    with pytest.raises(GraphError, match=r"lower= takes a problem, got function.*Decorate"):
        method(case.lower.fn, case.upper)
    with pytest.raises(GraphError, match="upper= takes a problem, got Variable"):
        method(case.lower, case.A)
    with pytest.raises(GraphError, match="fit is given as lower= and as upper="):
        method(case.lower, case.lower)


def test_each_level_reads_the_other(method) -> None:
    case = bilevel()

    @mlopt.problem(over=case.W, optimizer=sgd(case.W))
    def alone(w):
        return w[0].weight.sum()

    @mlopt.problem(over=case.A, optimizer=sgd(case.A))
    def aloof(a):
        return a.sum()

    with pytest.raises(GraphError, match="alone does not read a, which tune is over"):
        method(alone, case.upper)
    with pytest.raises(GraphError, match="aloof does not read w, which fit is over"):
        method(case.lower, aloof)


def test_stopped_edges_are_refused(method) -> None:
    case = bilevel()

    @mlopt.problem(over=case.A, given=[mlopt.stop(case.W)], optimizer=sgd(case.A))
    def tune(a, w):
        return a.sum() + w[0].weight.sum()

    with pytest.raises(GraphError, match=r"tune reads stop\(\) of w"):
        method(case.lower, tune)


def test_lower_needs_an_optimizer_and_one_variable_of_its_own(method) -> None:
    case = bilevel()

    def fit(w, a):
        return w[0].weight.sum() + a.sum()

    bare = mlopt.problem(over=case.W, given=[case.A])(fit)
    with pytest.raises(GraphError, match=r"fit has no optimizer.*Give the problem optimizer="):
        method(bare, case.upper)
    B = mlopt.Variable(nn.Parameter(torch.zeros(1)), "b")
    double = mlopt.problem(over=[case.W, B], given=[case.A], optimizer=sgd(case.W))(fit)
    with pytest.raises(GraphError, match="fit is over w, b; the lower problem is over one"):
        method(double, case.upper)
    same = mlopt.problem(over=case.W, given=[case.A], optimizer=sgd(case.W), name="same")(fit)
    with pytest.raises(GraphError, match="fit and same are both over w"):
        method(case.lower, same)


def test_third_variables_and_signals_of_variables_are_refused(method) -> None:
    case = bilevel()
    B = mlopt.Variable(nn.Parameter(torch.zeros(1)), "b")

    @mlopt.problem(over=case.W, given=[case.A, B], optimizer=sgd(case.W))
    def fit(w, a, b):
        return w[0].weight.sum() + a.sum() + b.sum()

    with pytest.raises(GraphError, match="fit reads b, which neither fit nor tune is over"):
        method(fit, case.upper)

    @mlopt.signal(given=[case.W])
    def size(w):
        return w[0].weight.sum()

    @mlopt.signal(given=[size])
    def twice(size):
        return 2 * size

    @mlopt.problem(over=case.A, given=[case.W, twice], optimizer=sgd(case.A))
    def tune(a, w, twice):
        return a.sum() * twice + w[0].weight.sum()

    with pytest.raises(GraphError, match="tune reads the signal twice, which depends on w"):
        method(case.lower, tune)
