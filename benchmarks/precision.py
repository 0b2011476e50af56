"""What bfloat16 and float16 leave of a hypergradient: the error of each product against float64.

A network is trained in float64 for some steps, under learned weights of its classes and a learned
decay of each of its tensors. There the hypergradient of a validation loss is taken by each method
in float64, and with the same numbers in float32, bf16 and fp16 (autocast; fp16 with the loss
scale). Its direct term is zero: all of it goes through the method. The error is relative to that of
the same method in float64, in the 2-norm; the greatest of all networks and seeds is shown.

"All in bf16" is without the rule by which differences are taken in float32.

    python benchmarks/precision.py
    python benchmarks/precision.py --device cuda --output benchmarks/results/gpu/precision.md

Smooth networks, since a kink that rounding puts on the other side is no error of a product.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from header import header
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import mlopt
from mlopt import Central, Exact, GaussNewton, Implicit, OneSided, OneStep
from mlopt._evaluation.precision import Precisions
from mlopt.report import format_table

ALLOWED = 0.03
CLASSES, STEPS = 5, 30


def mlp(act: type[nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 48), act(), nn.Linear(48, 48), act(), nn.Linear(48, CLASSES)
    )


def convnet(norm: Callable[[int], nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), norm(8), nn.Softplus(), nn.AvgPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), norm(16), nn.Softplus(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(64, CLASSES),
    )  # fmt: skip


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "MLP, tanh": lambda: mlp(nn.Tanh),
    "MLP, softplus": lambda: mlp(nn.Softplus),
    "convnet, GroupNorm": lambda: convnet(lambda c: nn.GroupNorm(2, c)),
    "convnet, BatchNorm": lambda: convnet(nn.BatchNorm2d),
}
METHODS: dict[str, Any] = {
    "OneStep, Exact": OneStep(),
    "OneStep, Central": OneStep(product=Central()),
    "OneStep, OneSided": OneStep(product=OneSided()),
    "Sama, Exact": mlopt.Sama(product=Exact()),
    "Sama, Central": mlopt.Sama(),
    "ZerothOrder": mlopt.ZerothOrder(OneStep(), samples=4),
    "Unrolled, 5 steps": mlopt.Unrolled(5),
    "Unrolled, 5 steps, recomputed": mlopt.Unrolled(5, recompute=True),
    "Implicit, CG": Implicit(mlopt.CG(30), damping=1.0),
    "Implicit, GMRES": Implicit(mlopt.GMRES(30), damping=1.0),
    "Implicit, Neumann": Implicit(mlopt.Neumann(10, scale=0.02), damping=1.0),
    "Implicit, Nystrom": Implicit(mlopt.Nystrom(20, damping=1.0)),
    "Implicit, CG, Central": Implicit(mlopt.CG(30), Central(), damping=1.0),
    "Implicit, CG, OneSided": Implicit(mlopt.CG(30), OneSided(), damping=1.0),
    "Implicit, CG, GaussNewton": Implicit(mlopt.CG(30), curvature=GaussNewton(), damping=0.1),
    "Implicit, CG, GaussNewton, Central": Implicit(
        mlopt.CG(30), Central(), GaussNewton(), damping=0.1
    ),
}


class Case:
    """A network at a point, of which each precision gets the same numbers.

    Args:
        network: its name.
        seed: of the network and the data.
        device: where it is computed.
        steps: of training, by float64.
    """

    def __init__(self, network: str, seed: int, device: str = "cpu", steps: int = STEPS) -> None:
        self.network, self.seed, self.device = network, seed, device
        g = torch.Generator().manual_seed(seed)
        centres = torch.randn(CLASSES, 1, 8, 8, generator=g, dtype=torch.float64)

        def draw(count: int) -> tuple[Tensor, Tensor]:
            y = torch.randint(0, CLASSES, (count,), generator=g)
            x = centres[y] + torch.randn(count, 1, 8, 8, generator=g, dtype=torch.float64)
            return x.to(device), y.to(device)

        self.train, self.valid = draw(64), draw(64)
        self.start: dict[str, Tensor] | None = None
        engine, *_ = self.engine(OneStep(), torch.float64)
        for _ in range(steps):
            engine.step()
        (w, *_) = (v for v in engine.graph.variables if v.name == "w")
        self.start = {k: t.detach().clone() for k, t in w.value.state_dict().items()}

    def engine(
        self, method: Any, dtype: torch.dtype, precision: Any = None
    ) -> tuple[mlopt.Engine, mlopt.Problem, mlopt.Variable]:
        """The two levels at the point, in one precision."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            net = NETWORKS[self.network]().to(self.device, dtype)
        if self.start is not None:
            net.load_state_dict(self.start)
        count = len([*net.parameters()])
        r = torch.linspace(-0.5, 0.5, CLASSES + count, dtype=dtype, device=self.device)
        W, R = mlopt.Variable(net, "w"), mlopt.Variable(nn.Parameter(r), "r")
        (x, y), (xv, yv) = ((x.to(dtype), y) for x, y in (self.train, self.valid))
        optimizer = torch.optim.SGD(W.parameters(), lr=0.05, momentum=0.9)

        @mlopt.problem(over=W, given=[R], optimizer=optimizer, hypergrad=method)
        def train(w: Any, r: Tensor) -> Tensor:
            losses = cross_entropy(mlopt.outputs(w(x)), y, reduction="none")
            decay = zip(r[CLASSES:].exp(), w.parameters(), strict=True)
            penalty = sum(weight * p.square().sum() for weight, p in decay)
            return (losses * r[:CLASSES].exp()[y]).mean() + penalty / 100

        @mlopt.problem(over=R, given=[W])
        def judge(r: Tensor, w: Any) -> Tensor:
            return cross_entropy(w(xv), yv)

        return mlopt.Engine([train, judge], precision=precision), judge, R

    def hypergradient(self, method: Any, dtype: torch.dtype, precision: Any = None) -> Tensor:
        """By one method, in one precision."""
        engine, judge, R = self.engine(method, dtype, precision)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", mlopt.ConvergenceWarning)
            return engine.hypergradient(judge)[R][""].double()

    def error(self, method: Any, precision: Any) -> float:
        """Relative to float64."""
        expected = self.hypergradient(method, torch.float64)
        found = self.hypergradient(method, torch.float32, precision)
        return float((found - expected).norm() / expected.norm())


@contextmanager
def without_the_rule() -> Iterator[None]:
    """Differences in the precision of their problem."""
    rule = Precisions.widens
    Precisions.widens = lambda *_, **__: False  # type: ignore[method-assign, assignment]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", mlopt.CapabilityWarning)
            yield
    finally:
        Precisions.widens = rule  # type: ignore[method-assign]


def widened(case: Case, method: Any) -> str:
    """What of a problem's evaluations the rule takes in float32."""
    engine, *_ = case.engine(method, torch.float32, "bf16")
    rule, problem = engine._evaluator.precision, engine.graph.problems[0]
    if rule.widens(problem):
        return "all"
    return "displaced ones" if rule.widens(problem, further=True) else "none"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=[*METHODS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS, help="of training, before")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/precision_cpu.md"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    cases = [
        Case(network, seed, options.device, options.steps)
        for network in options.networks
        for seed in range(options.seeds)
    ]
    rows: list[dict[str, Any]] = []
    for name in options.methods:
        method = METHODS[name]

        def worst(precision: Any, method: Any = method) -> float:
            return max(case.error(method, precision) for case in cases)

        row: dict[str, Any] = {"method": name, "in float32": widened(cases[0], method)}
        row |= {str(p or "float32"): worst(p) for p in (None, "bf16", "fp16")}
        with without_the_rule():
            row["all in bf16"] = worst("bf16") if row["in float32"] != "none" else row["bf16"]
        rows.append(row)
        print(format_table([row]), flush=True)
    numbers = ("float32", "bf16", "fp16", "all in bf16")
    shown = [{k: f"{v:.1e}" if k in numbers else v for k, v in row.items()} for row in rows]
    greatest = max(row[p] for row in rows for p in ("bf16", "fp16"))
    text = header(
        "Hypergradients in low precision",
        options.device,
        f"the greatest error of {len(cases)} networks: {', '.join(options.networks)}, "
        f"{options.seeds} seeds each. Allowed is {ALLOWED:.0%}; the greatest is {greatest:.1%}.",
    )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(f"{text}\n{format_table(shown)}\n")
    return int(not greatest < ALLOWED)


if __name__ == "__main__":
    raise SystemExit(main())
