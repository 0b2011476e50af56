"""A failed step leaves nothing behind, whatever an optimizer or a scheduler has done to tensors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mlopt


class Bomb:
    """A scheduler that raises when it is armed."""

    armed = False

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def step(self) -> None:
        if self.armed:
            raise RuntimeError("bomb")

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        del state


def grown(p: Tensor) -> None:
    p.data = torch.cat([p.data, torch.zeros(1, 2)])


def cut(p: Tensor) -> None:
    p.data = p.data[:1]


def widened(p: Tensor) -> None:
    p.data = p.data.double()


def turned(p: Tensor) -> None:
    p.data = p.data.t()


def frozen(p: Tensor) -> None:
    p.requires_grad_(False)


def engine_of(optimizer: Any, *others: Any) -> tuple[mlopt.Engine, Bomb]:
    """Two problems, of which the second one has a scheduler that may raise."""
    (a,) = optimizer.param_groups[0]["params"]
    b = nn.Parameter(torch.ones(2))
    A, B = mlopt.Variable(a, "a"), mlopt.Variable(b, "b")
    own = torch.optim.SGD([b], 0.1)
    bomb = Bomb(own)
    low = mlopt.problem(over=A, optimizer=optimizer, name="low")(lambda a: (a**2).sum())
    top = mlopt.problem(over=B, optimizer=own, scheduler=mlopt.PerStep(bomb), name="top")(
        lambda b: (b**2).sum()
    )
    return mlopt.Engine([low, top, *others]), bomb


@pytest.mark.parametrize("change", [grown, cut, widened, turned, frozen])
@pytest.mark.parametrize("steps", [0, 1])  # gradients are kept from the first step on
def test_a_parameter_has_its_memory_again(change: Any, steps: int) -> None:
    class Changing(torch.optim.SGD):
        changes = False

        def step(self, closure: Any = None) -> Any:
            super().step(closure)
            if self.changes:
                change(self.param_groups[0]["params"][0])

    a = nn.Parameter(torch.arange(4.0).reshape(2, 2))
    optimizer = Changing([a], 0.1)
    engine, bomb = engine_of(optimizer)
    for _ in range(steps):
        engine.step()
    b = engine.graph.variables[1].tensor
    memory, grads = a.data, [p.grad for p in (a, b)]
    kept = [t.clone() for t in (a.detach(), b.detach())]
    bomb.armed = optimizer.changes = True
    with pytest.raises(RuntimeError, match="bomb"):
        engine.step()
    assert a.data_ptr() == memory.data_ptr()
    assert (a.stride(), a.dtype, a.requires_grad) == ((2, 1), torch.float32, True)
    assert all(torch.equal(p, k) for p, k in zip((a, b), kept, strict=True))
    assert all(p.grad is g for p, g in zip((a, b), grads, strict=True))


def test_what_moves_between_neighbouring_containers_is_seen() -> None:
    """The same things in the same order, but for the borders between them."""
    a, b, c = (nn.Parameter(torch.ones(1)) for _ in range(3))
    W = mlopt.Variable(nn.ParameterList([a, b, c]), "w")
    optimizer = torch.optim.SGD([{"params": [a, b], "lr": 0.1}, {"params": [c], "lr": 0.01}])
    bomb = Bomb(optimizer)
    fit = mlopt.problem(over=W, optimizer=optimizer, scheduler=mlopt.PerStep(bomb), name="fit")(
        lambda w: sum((p**2).sum() for p in w)
    )
    engine = mlopt.Engine([fit])
    engine.step()
    one, two = (group["params"] for group in optimizer.param_groups)
    two.insert(0, one.pop())
    bomb.armed = True
    with pytest.raises(RuntimeError, match="bomb"):
        engine.step()
    assert (len(one), len(two)) == (1, 2)


def in_new_dict(o: Any, x: float) -> None:
    o.info = {"scale": x}


def in_new_list(o: Any, x: float) -> None:
    o.history = [*getattr(o, "history", []), x]


def in_state(o: Any, x: float) -> None:
    o.state[o.param_groups[0]["params"][0]] = {"norm": x}


def in_new_array(o: Any, x: float) -> None:
    o.array = np.array([x])


def in_grown_array(o: Any, x: float) -> None:
    o.__dict__.setdefault("array", np.ones(1)).resize(o.n + 1, refcheck=False)
    o.array[-1] = x


def in_grown_tensor(o: Any, x: float) -> None:
    t = o.__dict__.setdefault("tensor", torch.ones(1))
    t.resize_(len(t) + 1)
    t[-1] = x


@pytest.mark.parametrize(
    "keep", [in_new_dict, in_new_list, in_state, in_new_array, in_grown_array, in_grown_tensor]
)
def test_nan_in_what_is_new_or_has_grown(keep: Any) -> None:
    class Keeping(torch.optim.SGD):
        n = 0

        def step(self, closure: Any = None) -> Any:
            super().step(closure)
            self.n += 1
            keep(self, math.nan if self.n == 3 else 1.0)

    engine, _ = engine_of(Keeping([nn.Parameter(torch.ones(2, 2))], 0.1))
    engine.step()
    engine.step()
    with pytest.raises(mlopt.NonFiniteError, match="low"):
        engine.step()


def new_rate(s: Any, x: float) -> None:
    s.optimizer.param_groups[0]["lr"] = torch.tensor(x)


def own_tensor(s: Any, x: float) -> None:
    s.__dict__.setdefault("mean", torch.ones(1)).fill_(x)


def parameter(s: Any, x: float) -> None:
    with torch.no_grad():
        s.optimizer.param_groups[0]["params"][0].mul_(x)


@pytest.mark.parametrize("write", [new_rate, own_tensor, parameter])
def test_nan_that_a_scheduler_writes(write: Any) -> None:
    class Writing(Bomb):
        n = 0

        def step(self) -> None:
            self.n += 1
            write(self, math.nan if self.n == 2 else 0.5)

    w = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([w], torch.tensor(0.1), foreach=False)
    W = mlopt.Variable(w, "w")
    fit = mlopt.problem(
        over=W, optimizer=optimizer, scheduler=mlopt.PerStep(Writing(optimizer)), name="fit"
    )(lambda w: (w**2).sum())
    engine = mlopt.Engine([fit])
    engine.step()
    before = w.detach().clone()
    with pytest.raises(mlopt.NonFiniteError, match="fit"):
        engine.step()
    assert torch.equal(w, before)
    assert torch.isfinite(optimizer.param_groups[0]["lr"])
