"""An interrupt where something ends, outside of steps' own blocks: it is ended all the same."""

from __future__ import annotations

import contextlib
import random
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from engine.chaos import ALL, BEFORE, Interrupted, falling, take
from small import F64, assert_same, bilevel, mlp, state_of
from torch import nn

import mlopt


@pytest.mark.parametrize("part", ["back", "shut", "put_all"])
@pytest.mark.parametrize("verb", ["step", "plan", "audit"])
def test_the_first_check_leaves_a_module_its_own(verb: str, part: str) -> None:
    for at in range(1, 200):
        case = bilevel(nn.Sequential(mlp(), nn.BatchNorm1d(1).double()), hypergrad=mlopt.OneStep())
        engine = case.engine()
        before, own = state_of(engine), [*case.W.value.parameters(), *case.W.value.buffers()]
        with falling(at, Interrupted, part):
            try:
                mlopt.audit(engine) if verb == "audit" else getattr(engine, verb)()
                break  # it is not called so often
            except Interrupted:
                pass
        now = [*case.W.value.parameters(), *case.W.value.buffers()]
        assert all(a is b for a, b in zip(own, now, strict=True)), f"{part}, call {at}"
        assert_same(before, state_of(engine))
        if at > 20:
            break
    assert at > 3


class Draws:
    """A loader of no stated length, that draws from a generator of its own and from torch's."""

    def __init__(self) -> None:
        self.random = random.Random(3)

    def __iter__(self) -> Iterator[Any]:
        for _ in range(40):
            yield torch.rand(1, dtype=F64) + self.random.random()


@pytest.mark.parametrize("part", ["__exit__", "close", "__enter__", "seed", "set_state"])
def test_a_draw_leaves_generators_as_they_were(part: str) -> None:
    def made() -> tuple[Draws, mlopt.Engine]:
        W = mlopt.Variable(nn.Parameter(torch.zeros(1, dtype=F64)), "w")
        loader = Draws()
        fit = mlopt.problem(over=W, optimizer=torch.optim.SGD(W.parameters(), 0.1), data=loader)(
            lambda w, x: ((w - x) ** 2).sum()
        )
        return loader, mlopt.Engine([fit])

    _, twin = made()
    expected = [twin.step()["<lambda>/loss"] for _ in range(4)]
    fallen, handler = 0, signal.getsignal(signal.SIGINT)
    for at in range(1, 30):
        loader, engine = made()
        losses = [engine.step()["<lambda>/loss"]]
        torch.manual_seed(5)
        before = torch.get_rng_state(), loader.random.getstate()
        try:
            with falling(at, Interrupted, part):
                losses.append(engine.step()["<lambda>/loss"])
        except Interrupted:
            fallen += 1
            assert signal.getsignal(signal.SIGINT) == handler, f"{part}, call {at}"
            losses[1:] = expected[1 : engine.steps]  # one that has been taken all the same
        assert torch.equal(before[0], torch.get_rng_state()), f"{part}, call {at}"
        assert before[1] == loader.random.getstate(), f"{part}, call {at}"
        while len(losses) < 4:
            losses.append(engine.step()["<lambda>/loss"])
        assert_same(losses, expected)  # and the batches are the same
    assert fallen > 1


ENDS = ("interrupts.py", "transaction.py", "turns.py", "_turn.py")


@pytest.mark.parametrize("name", ["two levels, central", "loaders, adam"])
def test_ctrl_c_arrives_wherever_something_falls(name: str) -> None:
    """At every call around what keeps Ctrl-C waiting, and around the turn."""
    engine = ALL[name]()
    take(engine, BEFORE)
    handler = signal.getsignal(signal.SIGINT)
    with falling(0, Interrupted, files=ENDS) as count:
        take(engine)
    assert count[0] > 50
    for at in range(1, count[0] + 1):
        with contextlib.suppress(Interrupted), falling(at, Interrupted, files=ENDS):
            take(engine)
        left, _ = signal.getsignal(signal.SIGINT), signal.signal(signal.SIGINT, handler)
        assert left == handler, f"call {at}"
    with ThreadPoolExecutor(1) as threads:
        threads.submit(engine.step).result(60)


VERBS: dict[str, Callable[[mlopt.Engine, mlopt.Problem], Any]] = {
    "step": lambda engine, _: engine.step(),
    "hypergradient": lambda engine, upper: engine.hypergradient(upper),
    "audit": lambda engine, _: mlopt.audit(engine),
}


@pytest.mark.parametrize("verb", VERBS)
def test_ctrl_c_arrives_after_what_has_failed(verb: str) -> None:
    """Whatever was undone by it: the handler is that of before."""
    case = bilevel(mlp(), hypergrad=mlopt.Unrolled(2))
    engine = case.engine()
    fails = [False]
    objective = case.upper.fn

    def upper(*arguments: Any) -> Any:
        if fails[0]:
            raise OSError("once")
        return objective(*arguments)

    case.upper.fn = upper
    engine.step()
    fails[0] = True
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(OSError, match="once"):
        VERBS[verb](engine, case.upper)
    assert signal.getsignal(signal.SIGINT) == handler
