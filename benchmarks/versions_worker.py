"""One case of `versions.py` in a process of its own, on the mlopt that PYTHONPATH names.

Lines on standard input are numbers of steps to take; each is answered by the CPU seconds they took,
and an empty line by the case's counts as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from memory import peak_bytes

import mlopt

Case = Callable[[], mlopt.Engine]


def lfm_cw(variant: str, size: str) -> mlopt.Engine:
    import lfm_cw_step as case

    return case.engine(case.World.make(size, "cpu"), variant)[0]


def sgl(product: str) -> mlopt.Engine:
    from sgl_graph import Size, World, sgl_engine

    size = Size(channels=2, cells=3, nodes=1, image=8, batch=8)
    return sgl_engine(World.make(3, size, "cpu"), product)


def ladder(depth: int, product: str) -> mlopt.Engine:
    from depth_ladder import Ladder, ladder_engine

    return ladder_engine(Ladder(depth, 64), product)[0]


def overhead(product: str) -> mlopt.Engine:
    """The problem of `engine_overhead.py`."""
    from engine_overhead_steps import PRODUCTS, World

    world = World(10, "cpu")
    W, A = mlopt.Variable(world.w, "w"), mlopt.Variable(world.a, "a")

    @mlopt.problem(over=W, given=[A], optimizer=world.optimizers["w"])
    def lower(w: Any, a: Any) -> torch.Tensor:
        return world.lower(w(), a())

    @mlopt.problem(over=A, given=[W], optimizer=world.optimizers["a"])
    def upper(a: Any, w: Any) -> torch.Tensor:
        return ((w() - world.target) ** 2).sum() / 2 + (a() ** 2).sum() / 20

    return mlopt.Engine([lower, upper], hypergrad=mlopt.OneStep(product=PRODUCTS[product]))


def nested(method: mlopt.AbstractHypergradient) -> mlopt.Engine:
    """Three levels, of which the middle one steers the lowest and both are read from above."""
    torch.manual_seed(0)
    W, M, A = (mlopt.Variable(torch.nn.Parameter(torch.randn(64)), n) for n in "wma")

    def sgd(v: mlopt.Variable) -> torch.optim.Optimizer:
        return torch.optim.SGD(v.parameters(), lr=0.01)

    @mlopt.problem(over=W, given=[M, A], optimizer=sgd(W))
    def low(w: Any, m: Any, a: Any) -> torch.Tensor:
        return (torch.tanh(w - m) ** 2).sum() + (a.exp() * w**2).mean() + (w**2).mean()

    @mlopt.problem(over=M, given=[W, A], optimizer=sgd(M))
    def middle(m: Any, w: Any, a: Any) -> torch.Tensor:
        return ((w - a) ** 2).mean() + (m**2).mean() + (m * w).sin().mean()

    @mlopt.problem(over=A, given=[W, M], optimizer=sgd(A))
    def top(a: Any, w: Any, m: Any) -> torch.Tensor:
        return ((w - 1) ** 2).mean() + ((m - w) ** 2).mean() + 0.1 * (a**2).mean()

    return mlopt.Engine([low, middle, top], hypergrad=method)


def cases() -> dict[str, Case]:
    """By name; what an older mlopt does not have must not be asked of it."""
    from lfm_cw_step import VARIANTS

    made: dict[str, Case] = {}
    for v in VARIANTS:
        made[f"LFM-CW, {v}"] = lambda v=v: lfm_cw(v, "tiny")
        made[f"large LFM-CW, C 8, 5 cells, {v}"] = lambda v=v: lfm_cw(v, "c8l5")
    for product in ("central", "one-sided", "first"):
        made[f"SGL of 3, {product}"] = lambda p=product: sgl(p)
    for depth in (1, 8, 32):
        made[f"ladder of {depth}, central"] = lambda d=depth: ladder(d, "central")
    for product in ("central", "one-sided", "exact"):
        made[f"overhead, {product}"] = lambda p=product: overhead(p)
    methods = {
        "exact": mlopt.OneStep(),
        "one-sided": mlopt.OneStep(product=mlopt.OneSided()),
        "central": mlopt.OneStep(product=mlopt.Central()),
        "unrolled": mlopt.Unrolled(3),
        "implicit": mlopt.Implicit(mlopt.CG(3), damping=1.0),
    }
    for name, method in methods.items():
        made[f"nested, {name}"] = lambda m=method: nested(m)
    return made


def main() -> None:
    torch.set_num_threads(1)
    make = cases()[sys.argv[1]]
    peak_bytes("cpu", reset=True)
    engine = make()
    engine.step()
    peak = peak_bytes("cpu")
    plan = engine.plan()
    for line in sys.stdin:
        if not line.strip():
            counts = {"evaluations": plan.evaluations, "backwards": plan.backwards, "peak": peak}
            print(json.dumps({**counts, "file": mlopt.__file__}), flush=True)
            continue
        began = time.process_time()
        for _ in range(int(line)):
            engine.step()
        print(time.process_time() - began, flush=True)


if __name__ == "__main__":
    main()
