"""Nested loops, level by level, against loops by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compare import exact, rounding
from small import F64, assert_same
from torch import Tensor, nn

import mlopt
from mlopt import Alternate, Dense, Frozen, GraphError, Implicit, Loops, OneStep, Unrolled

LR = 0.1
DATA = [torch.tensor([float(i), 1.0], dtype=F64) for i in range(12)]
#: Twenty steps of thirty operations, differentiated three times at most.
BOUND = rounding(20 * 8 * 30, condition=10)


def low_loss(w: Tensor, m: Tensor, x: Tensor) -> Tensor:
    return torch.cosh(w - m).sum() + 0.1 * (w * x).sum()


def mid_loss(m: Tensor, w: Tensor, a: Tensor) -> Tensor:
    return (m * w.sin()).sum() + (m**2).sum() + (m * a).sum()


def top_loss(a: Tensor, m: Tensor) -> Tensor:
    return torch.cosh(a).sum() + (a * m**2).sum()


class World:
    """Three levels; each reads the one below and the one above."""

    def __init__(
        self, low: Any, mid: Any, momentum: float = 0.0, data: list[Tensor] = DATA
    ) -> None:
        self.W, self.M, self.A = (
            mlopt.Variable(nn.Parameter(torch.tensor([t, 0.5], dtype=F64)), n)
            for t, n in ((0.3, "w"), (-0.2, "m"), (0.7, "a"))
        )

        def sgd(v: Any) -> Any:
            return torch.optim.SGD(v.parameters(), lr=LR, momentum=momentum)

        self.low = mlopt.problem(
            over=self.W, given=[self.M], data=data, optimizer=sgd(self.W), hypergrad=low, name="low"
        )(low_loss)
        self.mid = mlopt.problem(
            over=self.M, given=[self.W, self.A], optimizer=sgd(self.M), hypergrad=mid, name="mid"
        )(mid_loss)
        self.top = mlopt.problem(over=self.A, given=[self.M], optimizer=sgd(self.A), name="top")(
            top_loss
        )

    def engine(self, *steps: int) -> mlopt.Engine:
        loops = Loops(*zip((self.low, self.mid, self.top), steps, strict=True))
        return mlopt.Engine([self.low, self.mid, self.top], schedule=loops)

    @property
    def values(self) -> list[Tensor]:
        return [v.value.detach().clone() for v in (self.W, self.M, self.A)]


def by(x: Tensor, value: Tensor, graph: bool = False) -> Tensor:
    return torch.autograd.grad(value, x, create_graph=graph)[0]


class Hand:
    """The same by plain autograd: with look-aheads, or each level as the one below has left it."""

    def __init__(self, world: World) -> None:
        self.w, self.m, self.a = world.values
        self.batch = 0

    def step(self, looks: bool, first: int, second: int) -> None:
        for k in range(1, first * second + 1):
            x, self.batch = DATA[self.batch % len(DATA)], self.batch + 1
            last = k % first == 0
            (self._looking if looks else self._standing)(x, last, last and k == first * second)

    def _standing(self, x: Tensor, middle: bool, top: bool) -> None:
        w = self.w.requires_grad_()
        self.w = (w - LR * by(w, low_loss(w, self.m, x))).detach()
        if middle:
            m = self.m.requires_grad_()
            self.m = (m - LR * by(m, mid_loss(m, self.w, self.a))).detach()
        if top:
            a = self.a.requires_grad_()
            self.a = (a - LR * by(a, top_loss(a, self.m))).detach()

    def _looking(self, x: Tensor, middle: bool, top: bool) -> None:
        a, m, w = (t.detach().requires_grad_() for t in (self.a, self.m, self.w))
        ahead = w - LR * by(w, low_loss(w, m, x), graph=True)
        self.w = ahead.detach()
        if middle:
            after = m - LR * by(m, mid_loss(m, ahead, a), graph=True)
            self.m = after.detach()
            if top:
                self.a = (a - LR * by(a, top_loss(a, after))).detach()


@pytest.mark.parametrize("steps", [(1, 1), (3, 1), (1, 2), (2, 3)], ids=str)
@pytest.mark.parametrize("method", [Frozen(), OneStep(), Unrolled(1)], ids=repr)
def test_three_levels_by_hand(method: Any, steps: tuple[int, int]) -> None:
    """The look-ahead of a level is the last of its steps; batches are taken round by round."""
    world = World(method, method)
    engine, hand = world.engine(*steps, 1), Hand(world)
    for _ in range(3):
        engine.step()
        hand.step(method != Frozen(), *steps)
        exact(world.values, [hand.w, hand.m, hand.a], BOUND)
    calls = engine._evaluator.count.copy()
    engine.step()
    taken = engine._evaluator.count - calls
    if method != Unrolled(1):  # which is gone through again where the level above it steps
        assert taken[world.low] == steps[0] * steps[1]
    assert (taken[world.mid], taken[world.top]) == (steps[1], 1)
    plan = {n: f for n, (f, _) in engine.plan().per_node.items()}
    assert plan == {n: taken[n] for n in engine.graph.nodes}


class Value(nn.Module):
    """A vector as a module, which is what Betty takes."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self) -> Tensor:
        return self.value


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("steps", [(1, 1), (3, 1), (2, 3)], ids=str)
def test_three_levels_by_betty(steps: tuple[int, int]) -> None:
    """In first order, to the bit: the same steps in the same order."""
    problems = pytest.importorskip("betty.problems", reason="betty-ml is not installed")
    configs, engines = pytest.importorskip("betty.configs"), pytest.importorskip("betty.engine")
    world = World(Frozen(), Frozen(), data=[DATA[3]] * 4)

    class Low(problems.ImplicitProblem):
        def training_step(self, batch: Any) -> Tensor:
            return low_loss(self.module(), self.m(), DATA[3])

    class Mid(problems.ImplicitProblem):
        def training_step(self, batch: Any) -> Tensor:
            return mid_loss(self.module(), self.w(), self.a())

    class Top(problems.ImplicitProblem):
        def training_step(self, batch: Any) -> Tensor:
            return top_loss(self.module(), self.m())

    def make(kind: Any, name: str, value: Tensor, unroll: int) -> Any:
        module = Value(value)
        return kind(
            name=name,
            config=configs.Config(type="darts", unroll_steps=unroll, retain_graph=True),
            module=module,
            optimizer=torch.optim.SGD(module.parameters(), lr=LR),
            train_data_loader=[[0]],  # it cannot do without
        )

    w, m, a = world.values
    low, mid, top = make(Low, "w", w, steps[0]), make(Mid, "m", m, steps[1]), make(Top, "a", a, 1)
    config = configs.EngineConfig(
        train_iters=3 * steps[0] * steps[1], valid_step=10**9, strategy="cpu"
    )
    dependencies = {"u2l": {}, "l2u": {low: [mid], mid: [top]}}
    engines.Engine(config=config, problems=[low, mid, top], dependencies=dependencies).run()
    engine = world.engine(*steps, 1)
    for _ in range(3):
        engine.step()
    assert_same(world.values, [p.module.value.detach() for p in (low, mid, top)])


def test_several_steps_of_the_top_are_several_steps_of_the_engine() -> None:
    once, twice = World(OneStep(), OneStep(), 0.9), World(OneStep(), OneStep(), 0.9)
    one, two = once.engine(2, 2, 1), twice.engine(2, 2, 2)
    for _ in range(2):
        one.step(), one.step(), two.step()  # noqa: B018
        assert_same(once.values, twice.values)


@pytest.mark.parametrize("method", [Frozen(), Implicit(Dense())], ids=repr)
def test_levels_that_are_read_as_they_stand_are_alternate(method: Any) -> None:
    """To the bit, on one batch: `Alternate` takes another one for each turn."""
    worlds = [World(method, Frozen(), data=[DATA[3]] * 4) for _ in range(2)]
    engines = []
    for world, make in zip(worlds, (Loops, Alternate), strict=True):
        schedule = make((world.low, 4), (world.mid, 1), (world.top, 1))
        engines.append(mlopt.Engine([world.low, world.mid, world.top], schedule=schedule))
    for _ in range(3):
        for engine in engines:
            engine.step()
        assert_same(worlds[0].values, worlds[1].values)


def test_what_is_refused() -> None:
    world = World(OneStep(), OneStep())
    low, mid, top = world.low, world.mid, world.top
    for bad in ((low, 0), (low,), low, (low, 1.5), ("low", 2), (low, mlopt.Until(1e-3))):
        with pytest.raises(GraphError, match="Loops"):
            Loops(bad, (mid, 1))  # type: ignore[arg-type]
    with pytest.raises(GraphError, match=r"Loops\(\) has no level"):
        Loops()
    entries = [low, mid, top]
    with pytest.raises(GraphError, match="Loops: top has no turn"):
        mlopt.Engine(entries, schedule=Loops((low, 2), (mid, 1)))
    with pytest.raises(GraphError, match=r"Loops: (top|mid) reads (mid|low).*lowest level first"):
        mlopt.Engine(entries, schedule=Loops((top, 1), (mid, 2), (low, 2)))
    mixed = World(Frozen(), OneStep())
    also = mlopt.problem(
        over=mixed.A, given=[mixed.M, mixed.W], name="top",
        optimizer=torch.optim.SGD(mixed.A.parameters(), lr=LR),
    )(lambda a, m, w: (a * m * w).sum())  # fmt: skip
    with pytest.raises(GraphError, match=r"Loops: top reads .*some look ahead and others stand"):
        mlopt.Engine(
            [mixed.low, mixed.mid, also], schedule=Loops((mixed.low, 2), (mixed.mid, 2), (also, 1))
        )


def test_nothing_is_kept_of_a_step_that_fails() -> None:
    world = World(OneStep(), OneStep())
    engine = world.engine(2, 2, 1)
    engine.step()
    before = world.values
    fn = world.top.fn
    world.top.fn = lambda a, m: fn(a, m) * torch.nan
    with pytest.raises(mlopt.NonFiniteError, match="top"):
        engine.step()
    assert_same(before, world.values)
