"""Low precision on a device: `pytest tests/evaluation/test_precision_devices.py --device cuda`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compare import exact, near, rounding
from engine.bursts import Bursts
from evaluation.low_precision import World, net
from torch import Tensor, nn

import mlopt
from mlopt import (
    CG,
    Central,
    Exact,
    GaussNewton,
    Implicit,
    OneSided,
    OneStep,
    Unrolled,
    ZerothOrder,
)
from mlopt.hypergrad.derivatives import derivatives, scaled

F32, F64 = torch.float32, torch.float64
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
WHY = "thirty roundings by 2^-8, independent of one another: 2.2 %"
METHODS = {
    "exact": OneStep(),
    "central": OneStep(product=Central()),
    "one-sided": OneStep(product=OneSided()),
    "cg": Implicit(CG(10), damping=1.0),
    "gauss-newton": Implicit(CG(10), curvature=GaussNewton(), damping=1.0),
    "cg, central": Implicit(CG(10), Central(), damping=1.0),
    "unrolled": Unrolled(3),
    "sama": mlopt.Sama(),
    "zeroth order": ZerothOrder(OneStep(lr=0.1), samples=2),
}


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("name", METHODS)
def test_products(name: str, precision: Any, device: torch.device) -> None:
    expected = World(METHODS[name], F64, device=device).hypergradient()
    found = World(METHODS[name], F32, device=device).hypergradient(precision)
    near(found.double(), expected, 0.03, why=WHY)


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("product", [Exact(), Central(), OneSided()], ids=str)
def test_nested_levels(product: Any, precision: Any, device: torch.device) -> None:
    middle = OneStep(product=product)
    expected = World(Implicit(CG(10), damping=1.0), F64, middle, device=device).hypergradient()
    world = World(Implicit(CG(10), damping=1.0), F32, middle, device=device)
    # Through two levels, each of which adds as much.
    near(world.hypergradient(precision).double(), expected, 0.06, why=f"twice {WHY}")


def test_half_numbers_may_be_of_any_size(device: torch.device) -> None:
    """The factor that brings a cotangent to the loss scale can lie beyond the range of fp16."""
    x = torch.ones(3, dtype=torch.float16, device=device, requires_grad=True)
    y = x * torch.tensor([1.0, 2.0, 4.0], dtype=torch.float16, device=device)
    c = torch.tensor([0.0, 2.0**-20, 2.0**-22], dtype=torch.float16, device=device)
    with scaled(2.0**12):
        found = derivatives([y], {(None, "x"): x}, [c])[None, "x"]
    exact(found, torch.tensor([0.0, 2.0**-19, 2.0**-20]), rounding(1))


@pytest.mark.parametrize("precision", DTYPES)
def test_steps_are_those_of_autocast_and_a_scaler(precision: Any, device: torch.device) -> None:
    g = torch.Generator().manual_seed(5)
    x, y = torch.randn(12, 6, generator=g).to(device), torch.randn(12, 3, generator=g).to(device)
    W, other = mlopt.Variable(net(4, device=device), "w"), net(4, device=device)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)

    @mlopt.problem(over=W, optimizer=torch.optim.SGD(W.parameters(), lr=0.1))
    def fit(w: Any) -> Tensor:
        return (w(x) - y).square().mean()

    engine = mlopt.Engine([fit], precision=precision, device=device)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    for _ in range(5):
        with torch.autocast(device.type, DTYPES[precision]):
            loss = (other(x) - y).square().mean()
        optimizer.zero_grad()
        scaler.scale(loss.float()).backward()
        scaler.step(optimizer)
        scaler.update()
        engine.step()
        assert engine.loss_scale == (scaler.get_scale() if precision == "fp16" else None)
    found, expected = ([p.detach() for p in m.parameters()] for m in (W.value, other))
    exact(found, expected, rounding(60, dtype=DTYPES[precision]) / 60)


def test_a_step_that_overflows_is_undone(device: torch.device) -> None:
    world = World(device=device)
    plain, factor = world.judge.fn, torch.ones((), device=device)

    def bursting(r: Tensor, w: Any, seen: Tensor) -> Tensor:
        return plain(r, lambda x: Bursts.apply(w(x), factor), seen)

    world.judge.fn = bursting
    engine = world.engine("fp16", device=device)
    engine._failures.size = 2.0**8
    engine.step()
    before = [p.detach().clone() for v in (world.W, world.R) for p in v.parameters()]
    factor.fill_(1e30)
    engine.step()
    assert engine.skipped is not None
    assert engine.loss_scale == 2.0**7
    after = [p for v in (world.W, world.R) for p in v.parameters()]
    assert all(map(torch.equal, before, after))
    factor.fill_(1.0)
    engine.step()
    assert engine.skipped is None
    assert not torch.equal(before[0], after[0])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(6, 3 * 16)
        self.last = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x)[None, None].chunk(3, -1)
        h = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.last(h[0, 0])


def attentive(dtype: torch.dtype, device: torch.device) -> World:
    world = World(OneStep(), dtype, device=device)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        block = Attention()
    W = mlopt.Variable(block.to(device, dtype), "w")
    other = World(OneStep(), dtype, device=device)
    fn, judged = world.train.fn, other.judge.fn

    @mlopt.problem(over=W, given=[world.R], optimizer=torch.optim.SGD(W.parameters(), lr=0.1))
    def train(w: Any, r: Tensor) -> Tensor:
        return fn(w, r)

    @mlopt.problem(over=world.R, given=[W])
    def judge(r: Tensor, w: Any) -> Tensor:
        return judged(r, w, torch.zeros(24, 3, dtype=dtype, device=device))

    world.W, world.train, world.judge, world.nodes = W, train, judge, [train, judge]
    return world


@pytest.mark.filterwarnings("ignore:.*second derivatives with:mlopt.CapabilityWarning")
@pytest.mark.parametrize("precision", DTYPES)
def test_fused_attention_is_differentiated_twice(precision: Any, device: torch.device) -> None:
    """In low precision torch takes another kernel, which is asked for its second derivative."""
    (expected, found) = (
        attentive(dtype, device).engine(p, hypergrad=OneStep())
        for dtype, p in ((F64, None), (F32, precision))
    )
    values = []
    for engine in (expected, found):
        judge = engine.graph.problems[-1]
        values.append(engine.hypergradient(judge)[judge.over[0]][""].double())
    near(values[1], values[0], 0.03, why=WHY)
