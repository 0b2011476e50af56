"""What is changed between steps is as if it had been declared so: it is trained, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from compare import exact, rounding
from small import F64, assert_same, sgd, state_of
from torch import nn
from torch.optim.lr_scheduler import StepLR

import mlopt
from mlopt import GraphError


class Levels:
    """A lower and an upper problem over three numbers each."""

    def __init__(self, method: Any = None, **options: Any) -> None:
        self.W = mlopt.Variable(nn.Parameter(torch.ones(3, dtype=F64)), "w")
        self.R = mlopt.Variable(nn.Parameter(torch.full((3,), 0.5, dtype=F64)), "r")
        self.low = mlopt.problem(
            over=self.W, given=[self.R], optimizer=sgd(self.W), name="low", **options
        )(lambda w, r: ((w - r) ** 2).sum())
        self.up = mlopt.problem(over=self.R, given=[self.W], optimizer=sgd(self.R), name="up")(
            lambda r, w: (w**2).sum() + (r**2).sum()
        )
        self.engine = mlopt.Engine([self.low, self.up], hypergrad=method or mlopt.OneStep())


def foreign() -> nn.Parameter:
    return nn.Parameter(torch.ones(2, dtype=F64))


def with_gradient(m: Levels) -> None:
    tensor = foreign()
    tensor.grad = torch.ones_like(tensor)
    m.low.optimizer.add_param_group({"params": [tensor]})


def emptied(m: Levels) -> None:
    m.low.optimizer.param_groups[0]["params"] = []


def replaced(m: Levels) -> None:
    m.low.optimizer.param_groups.clear()
    m.low.optimizer.add_param_group({"params": [foreign()]})


def moved_over(m: Levels) -> None:
    """All optimizers together hold what they held, in the same order."""
    m.low.optimizer.add_param_group({"params": m.R.parameters()})
    m.up.optimizer.param_groups.clear()


def put(name: str, value: Any) -> Callable[[Levels], None]:
    return lambda m: setattr(m.low, name, value)


REFUSED: dict[str, tuple[Callable[[Levels], None], str]] = {
    "another's tensor": (
        lambda m: m.low.optimizer.add_param_group({"params": m.R.parameters()}), "not one of w"),
    "nobody's tensor": (with_gradient, "not one of w"),
    "no tensor": (emptied, "holds none of the tensors of w"),
    "a copy": (replaced, "not one of w"),
    "moved over": (moved_over, "not one of w"),
    "an optimizer of another tensor": (
        lambda m: setattr(m.low, "optimizer", torch.optim.SGD([foreign()], lr=0.1)),
        "not one of w"),
    "one optimizer for both": (
        lambda m: setattr(m.low, "optimizer", m.up.optimizer), "not one of w"),
    "no optimizer": (put("optimizer", 3), "optimizer= takes"),
    "LBFGS": (lambda m: setattr(m.low, "optimizer", torch.optim.LBFGS(m.W.parameters())), "LBFGS"),
    "another's scheduler": (
        lambda m: setattr(m.low, "scheduler", StepLR(m.up.optimizer, 1)), "of another SGD"),
    "every 0": (put("every", 0), "every must be"),
    "repeat -1": (put("repeat", -1), "repeat must be"),
    "start by name": (put("start", "one"), "start must be"),
    "clip 0": (put("clip", 0.0), "clip=0.0 must be"),
    "repeats that a method does not see": (put("repeat", 2), "makes 2 updates"),
    "its method": (put("hypergrad", mlopt.Frozen()), "hypergrad= is another"),
}  # fmt: skip


@pytest.mark.parametrize("change", REFUSED)
@pytest.mark.parametrize("stepped", [False, True])
def test_what_could_not_be_declared_is_refused_before_anything_changes(change, stepped):
    m = Levels()
    if stepped:
        m.engine.step()
    make, said = REFUSED[change]
    make(m)
    before = [t.detach().clone() for t in (m.W.tensor, m.R.tensor)]
    for _ in range(2):
        with pytest.raises(GraphError, match=rf"low.*{said}"):
            m.engine.step()
    assert all(map(torch.equal, before, (m.W.tensor, m.R.tensor)))


def test_a_clip_under_a_method_that_commits_its_own_steps():
    m = Levels(mlopt.Unrolled(2))
    m.engine.step()
    m.low.clip = 1.0
    with pytest.raises(GraphError, match="Drop clip="):
        m.engine.step()


def test_options_of_groups_that_no_longer_go_together():
    X, Y = (mlopt.Variable(nn.Parameter(torch.ones(2, dtype=F64)), n) for n in "xy")
    one, other = (
        mlopt.problem(over=v, optimizer=sgd(v), name=v.name)(lambda v: (v**2).sum()) for v in (X, Y)
    )
    engine = mlopt.Engine([mlopt.Stack([one, other])])
    engine.step()
    other.every = 2
    with pytest.raises(GraphError, match="differ in every"):
        engine.step()
    one.every = 2
    engine.step()


RENEWED: dict[str, Callable[[Levels], None]] = {
    "an optimizer": lambda m: setattr(m.low, "optimizer", torch.optim.Adam(m.W.parameters())),
    "a clip": put("clip", 0.1),
    "every": put("every", 2),
    "a scheduler": lambda m: setattr(
        m.low, "scheduler", mlopt.PerStep(StepLR(m.low.optimizer, 1))),
    "the same tensors in two groups": lambda m: m.low.optimizer.param_groups.append(
        {**m.low.optimizer.param_groups[0], "params": []}),
}  # fmt: skip


@pytest.mark.parametrize("change", RENEWED)
def test_options_given_anew_are_those_of_a_new_engine(change):
    m = Levels()
    m.engine.step()
    RENEWED[change](m)
    new = Levels()
    RENEWED[change](new)
    for old, fresh in ((m.W, new.W), (m.R, new.R)):
        fresh.tensor.data.copy_(old.tensor.data)
    new.engine.steps = m.engine.steps
    for _ in range(3):
        m.engine.step()
        new.engine.step()
    assert torch.equal(m.W.tensor, new.W.tensor)
    assert torch.equal(m.R.tensor, new.R.tensor)


def test_what_graphs_are_made_of_stays():
    m = Levels()
    size = mlopt.signal(given=[m.W], name="size")(lambda w: (w**2).sum())
    engine = mlopt.Engine([m.low, size, m.up], hypergrad=mlopt.OneStep())
    engine.step()
    before = state_of(engine)
    data = [torch.ones(3, dtype=F64)]
    given = {"over": (m.R,), "given": (), "data": data, "streams": (mlopt.Stream(data),)}
    for name, value in given.items():
        for node in (m.low, size):
            if hasattr(node, name) or name == "data":
                with pytest.raises(GraphError, match=f"{node.name}: {name}= cannot be given anew"):
                    setattr(node, name, value)
    with pytest.raises(GraphError, match="size: state= cannot be given anew"):
        size.state = nn.BatchNorm1d(1)
    m.low.over = m.low.over  # the very same
    assert_same(before, state_of(engine))
    engine.step()
    stream = mlopt.Stream(data)
    for name, value in (("loader", [*data]), ("length", 2)):
        with pytest.raises(AttributeError):
            setattr(stream, name, value)


@pytest.mark.parametrize("late", [False, True])
def test_a_method_given_before_the_engine_is_made_reads_what_it_reads(late):
    """From where the steps start is an edge of the graph: two steps of w - 0.1 2 (w - 1)."""
    start = mlopt.Variable(nn.Parameter(torch.full((3,), 2.0, dtype=F64)), "start")
    W = mlopt.Variable(nn.Parameter(torch.zeros(3, dtype=F64)), "w")
    method = mlopt.Unrolled(2, init=start)
    low = mlopt.problem(
        over=W, optimizer=torch.optim.SGD(W.parameters(), lr=0.1), name="low",
        hypergrad=None if late else method,
    )(lambda w: ((w - 1) ** 2).sum())  # fmt: skip
    low.hypergrad = method
    up = mlopt.problem(over=start, given=[W], name="up")(lambda start, w: w.sum())
    found = mlopt.Engine([low, up]).hypergradient(up)[start][""]
    exact(found, torch.full((3,), 0.8**2, dtype=F64), rounding(10))
    low.hypergrad = mlopt.Frozen()
    assert [read.source for read in low.reads] == [W]


def test_the_value_of_a_variable_stays():
    m = Levels()
    m.engine.step()
    before = state_of(m.engine)
    with pytest.raises(GraphError, match="'w': its value cannot be replaced by a Parameter"):
        m.W.value = nn.Parameter(torch.zeros(3, dtype=F64))
    assert_same(before, state_of(m.engine))


def test_an_optimizer_of_frozen_tensors_alone_is_refused():
    net = nn.Linear(2, 1)
    W = mlopt.Variable(net, "w")
    net.bias.requires_grad_(False)
    for held in ([net.bias], [{"params": []}]):
        with pytest.raises(GraphError, match="holds none of the tensors of w"):
            mlopt.problem(over=W, optimizer=torch.optim.SGD(held, lr=0.1))(lambda w: w.weight.sum())
    net.weight.requires_grad_(False)  # a phase in which nothing of it is trained
    mlopt.problem(over=W, optimizer=torch.optim.SGD([net.bias], lr=0.1))(lambda w: w.weight.sum())


# By epochs and by schedules.


def pair(start: int = 0, **options: Any) -> tuple[mlopt.Problem, mlopt.Problem]:
    """Two problems that do not read each other, each with two batches."""
    made = []
    for name in "ab":
        V = mlopt.Variable(nn.Parameter(torch.ones(1, dtype=F64)), name)
        data = [torch.zeros(1, dtype=F64)] * 2
        declare = mlopt.problem(
            over=V, optimizer=sgd(V), data=data, name=name, start=start, **options
        )
        made.append(declare(lambda v, x: ((v - x) ** 2).sum()))
        start = 0
    return made[0], made[1]


def test_the_data_that_epochs_are_counted_by_is_not_put_off() -> None:
    a, b = pair()
    engine = mlopt.Engine([a, b])
    engine.step()
    a.start = 3
    with pytest.raises(GraphError, match=r"a: start=3 counts epochs, and nobody draws"):
        engine.step()
    a.start, b.start = 0, 3  # the nearest that counts
    for _ in range(9):
        engine.step()
    assert engine.epoch == 5


def test_a_start_that_has_come_is_no_matter() -> None:
    a, b = pair()
    engine = mlopt.Engine([a, b])
    for _ in range(4):
        engine.step()
    a.start = 2
    engine.step()
    assert (engine.steps, engine.epoch) == (5, 2)


def test_a_scheduler_of_epochs_needs_data_then_too() -> None:
    made = Levels()
    made.engine.step()
    made.low.scheduler = StepLR(made.low.optimizer, 1)
    with pytest.raises(GraphError, match="nothing here has data to count epochs by"):
        made.engine.step()
    made.low.scheduler = None
    made.engine.step()


@pytest.mark.parametrize("schedule", ["Alternate", "Loops"])
def test_schedules_look_again(schedule: str) -> None:
    a, b = pair()
    engine = mlopt.Engine([a, b], schedule=getattr(mlopt, schedule)((a, 2), (b, 1)))
    engine.step()
    a.repeat = 3
    with pytest.raises(GraphError, match=f"{schedule}: a has repeat=3"):
        engine.step()
    a.repeat = 1
    engine.step()


def test_what_an_engine_was_made_with_stays() -> None:
    engine = Levels().engine
    assert isinstance(engine.schedule, mlopt.Simultaneous)
    assert engine.undo is True
    for name, value in (("schedule", mlopt.UpperFirst()), ("undo", False), ("seed", 3)):
        with pytest.raises(AttributeError):
            setattr(engine, name, value)
    with pytest.raises(GraphError, match="skip_nonfinite must be a whole number, at least 0"):
        engine.skip_nonfinite = "3"  # type: ignore[assignment]
    engine.skip_nonfinite = 3
    assert engine.skip_nonfinite == 3


class Stops(mlopt.Callback):
    """Should a run not end."""

    def on_step(self, engine: mlopt.Engine, metrics: Any) -> None:
        if engine.steps > 50:
            engine.stop()


@pytest.mark.parametrize("turns", [False, True])
def test_epochs_are_counted_by_data_that_is_drawn(turns: bool) -> None:
    a, b = pair()
    a.optimizer = None  # and nobody reads it
    engine = mlopt.Engine([a, b], schedule=mlopt.Alternate((b, 1)) if turns else None)
    engine.run(epochs=2, callbacks=[Stops()], progress=False)
    assert (engine.steps, engine.epoch) == (4, 2)


def test_epochs_of_data_that_waits_are_refused() -> None:
    a, b = pair()
    b.start = 1
    engine = mlopt.Engine([a, b])
    for _ in range(2):  # of the passes that it has ended, there are none after an epoch either
        with pytest.raises(mlopt.SettingsError, match="by the data of b, from which nothing is"):
            engine.run(epochs=1, epoch=b.streams[0], progress=False)
        engine.run(epochs=1, progress=False)
    engine.run(steps=4, progress=False)
    engine.run(epochs=1, epoch=b.streams[0], callbacks=[Stops()], progress=False)
    assert engine.steps == 10
