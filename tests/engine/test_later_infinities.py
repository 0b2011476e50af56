"""The law of finite numbers where infinity begins later: masks, and states of optimizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from compare import exact, rounding
from engine.chaos import held
from small import F64, assert_same
from torch import Tensor, nn

import mlopt
from mlopt import NonFiniteError

INF, NAN = float("inf"), float("nan")


class Attention(nn.Module):
    """Causal attention, whose mask is made when a sequence is longer than all before."""

    def __init__(self, first: Any = None, factor: float = 1.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, -0.5, 0.25], dtype=F64))
        self.register_buffer("seen", torch.zeros(3, dtype=F64))
        self.register_buffer("mask", first)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        n = len(x)
        if self.mask is None or len(self.mask) < n:
            self.register_buffer("mask", torch.full((n, n), -INF, dtype=F64).triu(1))
        if self.training:
            self.seen.add_(x.detach().square().sum(0) * self.factor)
        return torch.softmax(x @ x.T + self.mask[:n, :n], -1) @ x @ self.w


FIRST: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "no numbers": lambda: torch.zeros(0, 0, dtype=F64),
    "one number": lambda: torch.zeros(1, 1, dtype=F64),
    "a short one": lambda: torch.full((2, 2), -INF, dtype=F64).triu(1),
}
SEQUENCES = [torch.linspace(-1, 1, 3 * n, dtype=F64).reshape(n, 3) for n in (1, 2, 3, 2, 5)]


METHODS: dict[str, Any] = {
    "one step": mlopt.OneStep(),
    "central": mlopt.OneStep(product=mlopt.Central()),
    "unrolled": mlopt.Unrolled(1),
    "implicit": mlopt.Implicit(mlopt.CG(3), damping=9.0),
}


def engine_of(network: Attention, place: str) -> mlopt.Engine:
    """One in which the network is a variable's, or the state of a signal."""
    if place == "state":
        U = mlopt.Variable(nn.Parameter(torch.ones(3, dtype=F64)), "u")
        network.w.requires_grad_(False)

        @mlopt.signal(given=[U], data=SEQUENCES, state=network)
        def seen(u, x):
            return network(x).sum() * u

        @mlopt.problem(over=U, given=[seen], optimizer=torch.optim.SGD(U.parameters(), lr=0.1))
        def judge(u, seen):
            return ((u - seen) ** 2).sum()

        return mlopt.Engine([seen, judge])
    W = mlopt.Variable(network, "w")
    U = mlopt.Variable(nn.Parameter(torch.ones(3, dtype=F64)), "u")

    @mlopt.problem(
        over=W,
        given=[U] if place in METHODS else [],
        data=SEQUENCES,
        optimizer=torch.optim.SGD(W.parameters(), lr=0.1),
        hypergrad=METHODS.get(place, mlopt.OneStep()),
    )
    def fit(w, *rest):
        return (w(rest[-1]) ** 2).sum() + sum(((w.w - u) ** 2).sum() for u in rest[:-1])

    if place not in METHODS:
        return mlopt.Engine([fit])

    @mlopt.problem(
        over=U, given=[W], data=SEQUENCES, optimizer=torch.optim.SGD(U.parameters(), lr=0.1)
    )
    def judge_fit(u, w, x):
        return (w(x) ** 2).sum() + (u**2).sum()

    return mlopt.Engine([fit, judge_fit])


@pytest.mark.parametrize("place", ["variable", *METHODS, "state"])
@pytest.mark.parametrize("first", FIRST)
def test_a_mask_is_made_when_it_is_needed(first: str, place: str) -> None:
    network = Attention(FIRST[first]())
    engine = engine_of(network, place)
    for _ in SEQUENCES:
        engine.step()
    assert torch.equal(network.mask, torch.full((5, 5), -INF, dtype=F64).triu(1))
    total = sum(x.square().sum(0) for x in SEQUENCES)
    exact(network.seen, total, rounding(20))


def test_a_network_with_such_a_mask_trains_as_in_a_plain_loop() -> None:
    network, plain = Attention(), Attention()
    engine, sgd = engine_of(network, "variable"), torch.optim.SGD(plain.parameters(), lr=0.1)
    for x in SEQUENCES:
        engine.step()
        sgd.zero_grad()
        (plain(x) ** 2).sum().backward()
        sgd.step()
    assert torch.equal(network.w, plain.w)


def test_what_grows_later_costs_one_more_look_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, looked = engine_of(Attention(), "variable"), []
    look = mlopt._engine.watch.Watch.first
    monkeypatch.setattr(
        "mlopt._engine.watch.Watch.first", lambda watch: (looked.append(1), look(watch))[1]
    )
    counts = []
    for _ in SEQUENCES:
        looked.clear()
        engine.step()
        counts.append(len(looked))
    assert counts == [1, 2, 1, 1, 1]


@pytest.mark.parametrize("factor", [INF, NAN])
@pytest.mark.parametrize("place", ["variable", "state"])
@pytest.mark.parametrize("steps", [0, 1, 2])  # with steps of a mask that stays, and one that grows
def test_another_buffer_may_not_overflow_where_a_mask_grows(
    steps: int, place: str, factor: float
) -> None:
    network = Attention()
    engine = engine_of(network, place)
    for _ in range(steps):
        engine.step()
    before, network.factor = held(engine), factor
    with pytest.raises(NonFiniteError, match="the update .* is not finite"):
        engine.step()
    assert_same(before, held(engine))


@pytest.mark.parametrize("place", ["variable", "state"])
def test_a_mask_stays_where_another_buffer_grows(place: str) -> None:
    """Then each buffer is another tensor."""
    network = Attention(torch.full((9, 9), -INF, dtype=F64).triu(1))
    network.register_buffer("bank", torch.zeros(0, 3, dtype=F64))
    network.register_forward_hook(
        lambda module, given, _: setattr(module, "bank", torch.cat([module.bank, given[0]]))
    )
    engine = engine_of(network, place)
    for _ in SEQUENCES:
        engine.step()
    assert torch.equal(network.bank, torch.cat(SEQUENCES))


def test_a_mask_that_begins_is_made_of_numbers() -> None:
    network = Attention()
    engine = engine_of(network, "variable")
    engine.step()
    network.register_forward_pre_hook(
        lambda module, given: setattr(module, "mask", torch.full((9, 9), NAN, dtype=F64).triu(1))
    )
    before = held(engine)
    with pytest.raises(NonFiniteError):
        engine.step()
    assert_same(before, held(engine))


# States of optimizers.


class Best(torch.optim.SGD):
    """Keeps the least gradient norm, every second step; it starts where `start` says."""

    def __init__(self, parameters: Any, start: str) -> None:
        super().__init__(parameters, lr=0.1)
        self.start, self.steps = start, 0
        if start == "made with the optimizer":
            for p in self.param_groups[0]["params"]:
                self.state[p]["best"] = torch.tensor(INF, dtype=p.dtype)

    def step(self, closure: Any = None) -> Any:
        self.steps += 1
        for p in self.param_groups[0]["params"]:
            state = self.state[p]
            if "best" not in state:
                number = self.start == "a number"
                state["best"] = INF if number else torch.tensor(INF, dtype=p.dtype)
            if self.steps % 2 == 0:
                norm = torch.linalg.vector_norm(p.grad)
                number = isinstance(state["best"], float)
                state["best"] = min(state["best"], float(norm)) if number else norm
        return super().step(closure)


def fitting(make: Callable[[Any], Any], dtype: torch.dtype, shape: Any = ()) -> mlopt.Engine:
    W = mlopt.Variable(nn.Parameter(torch.ones(shape, dtype=dtype)), "w")

    @mlopt.problem(over=W, optimizer=make(W.parameters()))
    def fit(w):
        return (w * 1e4).sum()

    return mlopt.Engine([fit])


def test_a_state_that_starts_at_infinity_is_refused_with_what_to_do() -> None:
    engine = fitting(lambda p: Best(p, "made in the first step"), F64)
    before = held(engine)
    with pytest.raises(NonFiniteError, match="to start at infinity has to be there before") as told:
        engine.step()
    assert told.value.problem == "fit"
    assert_same(before, held(engine))


@pytest.mark.parametrize("start", ["made with the optimizer", "a number"])
def test_what_the_error_says_to_do_is_right(start: str) -> None:
    engine = fitting(lambda p: Best(p, start), F64)
    for _ in range(3):
        engine.step()


@pytest.mark.parametrize("shape", [(), (1,), (3,)])
def test_a_first_state_that_overflows_as_a_whole_is_refused(shape: Any) -> None:
    """The gradient is finite, its square is not: nothing in the state tells it from a start."""
    engine = fitting(lambda p: torch.optim.Adam(p, eps=1e-4), torch.float16, shape)
    before = held(engine)
    with pytest.raises(NonFiniteError, match="the update .* of fit is not finite.*its gradient"):
        engine.step()
    assert_same(before, held(engine))


def test_a_state_that_is_no_number_at_first_has_no_start() -> None:
    class Lost(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            for p in self.param_groups[0]["params"]:
                self.state[p]["lost"] = torch.tensor([INF, NAN], dtype=p.dtype)
            return super().step(closure)

    with pytest.raises(NonFiniteError) as told:
        fitting(lambda p: Lost(p, lr=0.1), F64).step()
    assert "start at infinity" not in str(told.value)
