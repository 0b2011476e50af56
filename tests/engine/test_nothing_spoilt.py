"""The law of finite numbers: nothing newly infinite or not a number is kept; the first is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compare import exact, rounding
from engine.chaos import held
from small import F64, assert_same
from torch import nn

import mlopt
from mlopt import CG, Central, Implicit, NonFiniteError, OneStep, Unrolled

INF, NAN = float("inf"), float("nan")


class World:
    """A lower and an upper problem, whose losses are multiplied by what `factor` says."""

    def __init__(
        self, method: Any = None, dtype: torch.dtype = F64, make: Any = None, clip: Any = None,
        nested: bool = False, **options: Any,
    ) -> None:  # fmt: skip
        make = make or (lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.5))
        names = ["low", "middle", "top"] if nested else ["low", "top"]
        self.factor = dict.fromkeys(names, 1.0)
        self.variables = [
            mlopt.Variable(nn.Parameter(torch.ones(3, dtype=dtype)), f"v_{n}") for n in names
        ]
        self.problems = []
        for i, (name, own) in enumerate(zip(names, self.variables, strict=True)):
            below, above = self.variables[:i][-1:], self.variables[i + 1 :][:1]

            def objective(own: Any, *others: Any, name: str = name) -> Any:
                loss = sum(((own - 0.4 * o) ** 2).sum() for o in others) + (own**2).sum() / 2
                return loss * self.factor[name]

            self.problems.append(
                mlopt.problem(
                    over=own,
                    given=[*below, *above],
                    optimizer=make(own.parameters()),
                    name=name,
                    clip=clip,
                    hypergrad=method or OneStep(lr=0.05),
                )(objective)
            )
        self.engine = mlopt.Engine(self.problems, **options)


METHODS = {
    "one step": OneStep(),
    "central": OneStep(product=Central()),
    "unrolled": Unrolled(3),
    "recomputed": Unrolled(2, recompute=True),
    "implicit": Implicit(CG(3), damping=1.0),
    "sama": mlopt.Sama(),
    "zeroth order": mlopt.ZerothOrder(),
    "frozen": mlopt.Frozen(),
}
NESTED = ["one step", "central", "unrolled", "recomputed", "implicit"]


@pytest.mark.filterwarnings("ignore::mlopt.ConvergenceWarning")
@pytest.mark.parametrize("where", ["low", "middle", "top"])
@pytest.mark.parametrize(
    ("method", "nested"), [(m, False) for m in METHODS] + [(m, True) for m in NESTED]
)
def test_a_bad_loss_is_skipped_and_the_first_problem_named(
    method: str, nested: bool, where: str
) -> None:
    world = World(METHODS[method], nested=nested, skip_nonfinite=1)
    if where not in world.factor:
        return
    world.engine.step()
    before = held(world.engine)
    world.factor[where] = NAN
    world.engine.step()
    skipped = world.engine.skipped
    assert skipped is not None
    assert skipped.problem == where
    assert_same({**before, "steps": 2}, held(world.engine))
    with pytest.raises(NonFiniteError, match=where):
        world.engine.step()
    if method != "frozen" or where == "top":  # else the top does not see it
        with pytest.raises(NonFiniteError) as raised:
            world.engine.hypergradient(world.problems[-1])
        assert raised.value.problem == where
    world.factor[where] = 1.0
    world.engine.step()
    assert world.engine.skipped is None


# What is committed.


def spoilt(world: World, name: str) -> None:
    """The next step is refused, names a problem, and has changed nothing."""
    before = held(world.engine)
    with pytest.raises(NonFiniteError, match=f"the update .* of {name} is not finite") as raised:
        world.engine.step()
    assert raised.value.problem == name
    assert_same(before, held(world.engine))


def test_a_state_that_overflows() -> None:
    """Adam in float16: the mean of squares is beyond it, and the step made of it is zero."""
    world = World(dtype=torch.float16, make=lambda p: torch.optim.Adam(p, lr=1e-3, eps=1e-4))
    world.factor["top"] = 1e4
    spoilt(world, "top")


def test_a_state_that_is_not_a_number() -> None:
    world = World(make=lambda p: torch.optim.Adam(p, lr=1e-3, weight_decay=0.1))
    world.engine.step()
    world.engine.step()
    low = world.problems[0].optimizer
    (state,) = low.state.values()
    good = state["exp_avg"].clone()
    state["exp_avg"][0] = 1e308
    low.param_groups[0]["lr"] = 1e10
    spoilt(world, "low")
    state["exp_avg"].copy_(good)
    low.param_groups[0]["lr"] = 1e-3
    world.engine.step()


def test_a_value_that_overflows() -> None:
    spoilt(World(dtype=torch.float32, make=lambda p: torch.optim.SGD(p, lr=3e38)), "low")


@pytest.mark.parametrize("owner", ["network", "signal"])
def test_a_buffer_that_is_not_finite(owner: str) -> None:
    """The loss does not see it."""
    net, memory = nn.BatchNorm1d(3, dtype=F64), nn.BatchNorm1d(3, dtype=F64)
    W = mlopt.Variable(net, "w")
    U = mlopt.Variable(nn.Parameter(torch.ones(3, dtype=F64)), "u")
    bad = [1.0]
    x = [torch.linspace(-1, 1, 12, dtype=F64).reshape(4, 3)]

    @mlopt.problem(over=W, data=x, optimizer=torch.optim.SGD(W.parameters(), lr=0.1))
    def fit(w, batch):
        if owner == "network":
            w(batch * bad[0])
        return ((w.weight - 2) ** 2).sum() + (w.bias**2).sum()

    @mlopt.signal(given=[W], data=x, state=memory)
    def seen(w, batch):
        return memory(batch * bad[0]).nan_to_num(0, 0, 0) * w.weight

    @mlopt.problem(over=U, given=[seen], optimizer=torch.optim.SGD(U.parameters(), lr=0.1))
    def judge(u, seen):
        return ((u - seen.detach()) ** 2).mean()

    engine = mlopt.Engine([fit, seen, judge], hypergrad=mlopt.Frozen())
    engine.step()
    before, bad[0] = held(engine), INF
    with pytest.raises(NonFiniteError) as raised:
        engine.step()
    assert raised.value.problem == ("fit" if owner == "network" else "seen")
    assert_same(before, held(engine))


def test_an_optimizer_that_raises_on_what_is_not_finite() -> None:
    class Strict(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                for p in group["params"]:
                    torch.linalg.svd(p.grad.outer(p.grad))  # as some do; it refuses NaN
                    if not p.grad.isfinite().all():
                        raise ValueError("cannot")
            return super().step(closure)

    world = World(make=lambda p: Strict(p, lr=0.05), skip_nonfinite=1)
    world.engine.step()
    world.factor["top"] = NAN
    world.engine.step()
    skipped = world.engine.skipped
    assert skipped is not None
    assert (skipped.problem, skipped.step) == ("top", 1)


# What is legal.


class Remembers(torch.optim.SGD):
    """Keeps the best norm it has seen, which is infinite at first."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, lr=lr)
        (p,) = self.param_groups[0]["params"]
        self.state[p]["best"] = torch.tensor(INF)
        self.best = INF


def test_what_was_infinite_from_the_start_may_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(make=lambda p: Remembers(p, lr=0.05))
    looked = []
    look = mlopt._engine.watch.Watch.first
    monkeypatch.setattr(
        "mlopt._engine.watch.Watch.first", lambda watch: (looked.append(1), look(watch))[1]
    )
    counts = []
    for _ in range(3):
        looked.clear()
        world.engine.step()
        counts.append(len(looked))
    assert counts == [2, 1, 1]  # once more where it is met first, then one look a step
    world.factor["top"] = 1e308
    with pytest.raises(NonFiniteError, match="top"):
        world.engine.step()
    world.factor.update(top=1.0, low=1e3)
    world.problems[0].optimizer.param_groups[0]["lr"] = 1e308
    spoilt(world, "low")


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.float16, 4e4), (torch.float32, 1e25), (F64, 1e200)]
)
def test_a_norm_that_overflows_is_no_bad_gradient(
    dtype: torch.dtype, size: float, clip: float | None
) -> None:
    W = mlopt.Variable(nn.Parameter(torch.zeros(4, dtype=dtype)), "w")
    direction = torch.full((4,), size, dtype=dtype)
    lr = 1.0 if clip else 0.5 / size

    @mlopt.problem(over=W, optimizer=torch.optim.SGD(W.parameters(), lr=lr), clip=clip)
    def steep(w):
        return (w * direction).sum()

    engine = mlopt.Engine([steep])
    found = engine.step()["steep/gradient_norm"]
    bound = rounding(20, dtype=dtype)
    exact(found.double(), 2 * float(direction[0]), bound)
    exact(W.value.detach().double(), torch.full((4,), -0.5, dtype=F64), 2 * bound)
