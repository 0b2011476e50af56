"""Bad optimizers, methods, schedules and options: refused, with the remedy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bad_input import A, V, W, over_a, over_w
from small import sgd
from torch.optim.lr_scheduler import ChainedScheduler, ReduceLROnPlateau, SequentialLR, StepLR
from torch.optim.swa_utils import SWALR

import mlopt
from mlopt import GraphError


def test_optimizer_over_other_tensors():
    with pytest.raises(
        GraphError, match=r"fit: its optimizer holds a tensor.*not one of w\. Build it over"
    ):
        over_w(optimizer=sgd(V))


def test_lbfgs():
    with pytest.raises(GraphError, match="fit: LBFGS evaluates its objective itself.*another"):
        over_w(optimizer=torch.optim.LBFGS(W.parameters()))


class Foreign:
    """A scheduler of no library."""

    def __init__(self, needs=False):
        self.step = (lambda epoch: None) if needs else (lambda epoch=None: None)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"optimizer": torch.optim.SGD}, "optimizer= takes a torch.optim.Optimizer"),
        ({"hypergrad": "darts"}, r"hypergrad= takes a method such as OneStep\(\).*'darts'"),
        ({"hypergrad": mlopt.OneStep}, "hypergrad= takes a method"),
        ({"clip": 0.0}, "clip=0.0 must be a positive norm"),
        ({"clip": float("nan")}, "clip=nan must be a positive norm"),
        ({"every": 0}, "every must be a whole number, at least 1"),
        ({"repeat": 1.5}, "repeat must be a whole number"),
        ({"start": -1}, "start must be a whole number, at least 0"),
        ({"optimizer": None, "scheduler": object()}, "a scheduler without an optimizer"),
        ({"clip": "1"}, "clip='1' must be a positive norm"),
        ({"clip": True}, "clip=True must be a positive norm"),
        ({"every": True}, "every must be a whole number"),
        ({"start": None}, "start must be a whole number"),
        ({"repeat": torch.ones(2)}, "repeat must be a whole number"),
        ({"scheduler": "cosine"}, "scheduler= takes an object such as.*'cosine'"),
        ({"scheduler": sgd(W)}, "scheduler= takes an object such as"),
        ({"scheduler": StepLR}, "scheduler= takes a scheduler, got the class StepLR"),
        ({"scheduler": [StepLR(sgd(W), 1)] * 2}, r"a list of 2.*ChainedScheduler.*SequentialLR"),
        ({"scheduler": StepLR(sgd(V), 1)}, "scheduler= takes a scheduler of its own optimizer"),
        ({"scheduler": mlopt.PerStep(StepLR(sgd(W), 1))}, "takes a scheduler of its own optimizer"),
        ({"scheduler": Foreign(needs=True)}, r"the step\(\) of Foreign cannot be called.*'epoch'"),
    ],
)
def test_bad_option(options, match):
    with pytest.raises(GraphError, match=rf"fit\W+.*{match}"):
        over_w(**options)


def test_schedulers_that_are_legal():
    for make in (
        lambda o: StepLR(o, 1),
        lambda o: mlopt.PerStep(ReduceLROnPlateau(o)),
        lambda o: ChainedScheduler([StepLR(o, 1), StepLR(o, 2)]),
        lambda o: SequentialLR(o, [StepLR(o, 1), StepLR(o, 2)], [3]),
        lambda o: SWALR(o, swa_lr=0.1),
        lambda o: Foreign(),
        lambda o: None,
    ):
        over_w(optimizer=(optimizer := sgd(W)), scheduler=make(optimizer), clip=np.float32(1))


@pytest.mark.parametrize("scheduler", [None, "cosine", 3, StepLR, [StepLR(sgd(W), 1)], sgd(W)])
def test_what_is_stepped_at_each_step_is_a_scheduler(scheduler):
    with pytest.raises(GraphError, match="PerStep: scheduler= takes"):
        mlopt.PerStep(scheduler)


def test_mutual_read_without_a_method_names_the_choices():
    with pytest.raises(GraphError) as raised:
        mlopt.Engine([over_w(), over_a()])
    message = str(raised.value)
    for part in ("tune reads w", "depends on a", "OneStep(", "Frozen()", "Engine(", "hypergrad="):
        assert part in message
    assert "if tune is the lower level, list it first" in message
    mlopt.Engine([over_w(hypergrad=mlopt.Frozen()), over_a()])
    mlopt.Engine([over_w(), over_a()], hypergrad=mlopt.OneStep())


def test_response_through_a_signal_without_a_method():
    """Nobody reads w directly: the path tune -> size -> fit still needs a method."""

    @mlopt.signal(given=[W])
    def size(w):
        return w.square().sum()

    @mlopt.problem(over=A, given=[size])
    def top(a, size):
        return (a - size).square().sum()

    with pytest.raises(GraphError, match=r"top reads w \(or what depends on it\).*through fit"):
        mlopt.Engine([over_w(), size, top])


@pytest.mark.parametrize("kind", [torch.optim.Adagrad, torch.optim.RMSprop, torch.optim.NAdam])
def test_unknown_optimizer_is_refused_only_where_its_look_ahead_is_needed(kind):
    """D15: never another algorithm in silence."""
    optimizer = kind(W.parameters(), lr=0.1)
    with pytest.raises(
        GraphError, match=rf"fit: the look-ahead of {kind.__name__} is not known.*OneStep\(lr=...\)"
    ):
        mlopt.Engine([over_w(optimizer=optimizer, hypergrad=mlopt.OneStep()), over_a()])
    mlopt.Engine([over_w(optimizer=optimizer, hypergrad=mlopt.OneStep(lr=0.1)), over_a()])
    mlopt.Engine([over_w(optimizer=optimizer, hypergrad=mlopt.Frozen()), over_a()])
    alone = mlopt.problem(over=W, optimizer=optimizer)(lambda w: w.square().sum())
    mlopt.Engine([alone], hypergrad=mlopt.OneStep())  # nobody reads it


def test_a_subclass_of_a_known_optimizer_is_not_that_optimizer():
    class Mine(torch.optim.SGD):
        pass

    lower = over_w(optimizer=Mine(W.parameters(), lr=0.1), hypergrad=mlopt.OneStep())
    with pytest.raises(GraphError, match="the look-ahead of Mine is not known"):
        mlopt.Engine([lower, over_a()])


def test_look_ahead_without_an_optimizer():
    with pytest.raises(GraphError, match=r"fit: OneStep\(\) looks ahead.*OneStep\(lr=...\)"):
        mlopt.Engine([over_w(optimizer=None, hypergrad=mlopt.OneStep()), over_a()])


def test_repeat_under_a_method_that_looks_ahead():
    lower = over_w(hypergrad=mlopt.OneStep(), repeat=2)
    with pytest.raises(GraphError, match=r"tune reads the solution of fit.*2 updates.*repeat=1"):
        mlopt.Engine([lower, over_a()])


def test_sequential_with_a_method_that_looks_ahead():
    with pytest.raises(GraphError, match=r"Sequential\(\): tune reads the solution of fit.*Simul"):
        mlopt.Engine([over_w(), over_a()], hypergrad=mlopt.OneStep(), schedule=mlopt.Sequential())


def test_alternate_with_missing_or_unknown_problems():
    lower, upper = over_w(hypergrad=mlopt.Frozen()), over_a()

    def engine(*turns):
        return mlopt.Engine([lower, upper], schedule=mlopt.Alternate(*turns))

    with pytest.raises(GraphError, match="tune has no turn and would never be updated"):
        engine((lower, 3))
    other = mlopt.problem(over=V, optimizer=sgd(V))(lambda v: v.sum())
    with pytest.raises(GraphError, match="<lambda> is not in the engine's list"):
        engine((lower, 3), (upper, 1), (other, 1))
    many = over_w(hypergrad=mlopt.Frozen(), repeat=2)
    with pytest.raises(GraphError, match="fit has repeat=2; give it more rounds"):
        mlopt.Engine([many, upper], schedule=mlopt.Alternate((many, 3), (upper, 1)))


def test_the_highest_level_listed_first_is_told_of_the_order():
    lower, upper = over_w(hypergrad=mlopt.OneStep()), over_a()
    with pytest.raises(
        GraphError, match=r"^The list goes from the lowest.*Engine\(\[fit, tune\]\)"
    ):
        mlopt.Engine([upper, lower])
    mlopt.Engine([lower, upper])


@pytest.mark.parametrize(
    "turns",
    [
        (),
        (("fit", 2),),
        ((over_w(), True),),
        ((None, 1),),
        (3,),
        ((lambda: 0, 0),),
        ((lambda: 0, 1.5),),
    ],
)
def test_alternate_with_a_bad_turn(turns):
    with pytest.raises(GraphError, match="Alternate"):
        mlopt.Alternate(*turns)


@pytest.mark.parametrize(
    "make",
    [
        lambda: mlopt.OneStep(lr=-0.1),
        lambda: mlopt.OneStep(lr=0.0),
        lambda: mlopt.OneStep(product="central"),
        lambda: mlopt.Central(radius=0.0),
        lambda: mlopt.OneSided(radius=-1.0),
        lambda: mlopt.StopGradient("one step"),
    ],
)
def test_bad_setting_of_a_method(make):
    with pytest.raises(GraphError):
        make()


def test_engine_takes_objects_not_strings():
    with pytest.raises(GraphError, match=r"hypergrad= takes a method such as OneStep\(\)"):
        mlopt.Engine([over_w(), over_a()], hypergrad="darts")
    with pytest.raises(GraphError, match=r"schedule= takes an object such as Sequential\(\)"):
        mlopt.Engine([over_w(), over_a()], hypergrad=mlopt.Frozen(), schedule="sequential")


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("seed", [None, 1.5, "3", True, float("nan"), [1]]),
        ("skip_nonfinite", [-1, None, 1.5, True, "many"]),
        ("undo", [None, 0, "yes"]),
        ("compile", [None, 1, "inductor"]),
        ("device", [0, -1, True, "gpu", "cuda:99", "", [], 1.5]),
        ("hypergrad", ["darts", mlopt.OneStep, 1, True]),
        ("schedule", ["sequential", mlopt.Sequential, 0]),
    ],
)
def test_every_option_of_an_engine_is_checked(option, values):
    for value in values:
        with pytest.raises(GraphError, match=rf"Engine\W+{option}="):
            mlopt.Engine([over_w(), over_a()], **{"hypergrad": mlopt.Frozen(), option: value})


@pytest.mark.parametrize(
    "options", [{"tol": "0.1"}, {"tol": True}, {"tol": 0}, {"tol": float("inf")}, {"tol": None}]
)
def test_bad_tolerance(options):
    with pytest.raises(GraphError, match="Until.*tol must be a number, positive and finite"):
        mlopt.Until(**options)


def test_bad_flag_of_a_schedule():
    with pytest.raises(
        GraphError, match="Alternate\\(same_batch=1\\): same_batch must be True or False"
    ):
        mlopt.Alternate((over_w(), 1), same_batch=1)
