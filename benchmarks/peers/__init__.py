"""Several libraries' hypergradients, mlopt's own among them, behind one signature.

Each `*_peer` module has METHODS, a list of `Method`. A method's `prepare` takes a problem of
`error_vs_cost_problems` and `Options`, builds the library's objects as its users do, once, and
returns a function that gives the library's hypergradient at (problem.w, problem.r), each time that
it is called. Importing a peer module imports its library: an ImportError means that it is not
installed. None of the others is a dependency of mlopt. Betty declares Python < 3.11 and BOAT
numpy < 2, both without need here, hence:

    pip install --no-deps --ignore-requires-python betty-ml==0.2.1 torchopt==0.7.3 \\
        higher==0.2.1 boat-torch==1.1.1
    pip install optree graphviz matplotlib

`python benchmarks/error_vs_cost.py` runs all of them beside mlopt, against the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

__all__ = ["KINDS", "Lower", "Method", "Options", "Upper"]

# What a method's answer is in exact arithmetic, at the point where it is asked: see `own_truth` in
# `error_vs_cost.py`. Up to "identity" it is `Problem.dense_hypergradient` with one or another
# replacement of the inverse, at the lower optimum. Then come `unrolled_truth` with K steps of an
# optimizer, with one step, and with K of which the last alone is differentiated, from a warm start.
KINDS = (
    "dense", "cg", "damped cg", "neumann", "nystrom", "identity", "sgd", "adam", "adam raw eps",
    "one sgd step", "last adam step", "penalty",
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """What the methods are told.

    Args:
        iterations: K, of the linear solver, of the Neumann series, or unrolled steps.
        step_size: alpha of the Neumann series, and the learning rate of unrolled SGD.
        adam_lr: the learning rate of unrolled Adam.
        tolerance: at which an iterative solver may stop early, where it can.
        radius: of finite differences.
        damping: added to the Hessian, by the methods that damp.
        nystrom_damping: that of Nystrom, to whom it stands for all that the rank leaves out.
        weight: of the lower objective, in the penalty methods.
        samples: of the methods that draw.
    """

    iterations: int = 20
    step_size: float = 0.5
    adam_lr: float = 0.01
    tolerance: float = 1e-12
    radius: float = 0.01
    damping: float = 0.01
    nystrom_damping: float = 0.05
    weight: float = 100.0
    samples: int = 8


@dataclass(frozen=True)
class Method:
    """One way of one library: its name, what it computes (one of KINDS), and the adapter.

    `varies` names the option that decides what it costs, if one does.
    """

    library: str
    name: str
    kind: str
    prepare: Callable[[Any, Options], Callable[[], Tensor]]
    varies: str | None = None


class Lower(nn.Module):
    """The lower variables as a module, called with r and a batch for the lower objective."""

    def __init__(self, problem: Any) -> None:
        super().__init__()
        self.problem = problem
        self.w = nn.Parameter(problem.w.detach().clone())

    def forward(self, r: Tensor, batch: tuple[Tensor, Tensor], upper: bool = False) -> Tensor:
        objective = self.problem.upper if upper else self.problem.lower
        return objective(self.w, r, batch)


class Upper(nn.Module):
    """The upper variables as a module."""

    def __init__(self, problem: Any) -> None:
        super().__init__()
        self.r = nn.Parameter(problem.r.detach().clone())

    def forward(self) -> Tensor:
        return self.r
