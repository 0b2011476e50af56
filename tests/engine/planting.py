"""Steps in which one number becomes infinite or none, at any operation that computes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from engine.chaos import ALL, Lookahead
from engine.memory_graphs import SCHEDULES, two_levels
from sweep.random_graphs import draw_graph
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import mlopt

#: What moves numbers or draws them, and computes none: what it gives is finite if what it gets is.
_MOVES = {
    "clone", "copy_", "_to_copy", "cat", "stack", "index", "index_select", "gather", "repeat",
    "constant_pad_nd", "select_backward", "slice_backward", "flip", "roll", "tril", "triu",
    "_foreach_copy_", "fill_", "zero_", "_foreach_zero_", "set_", "resize_",
    "empty", "zeros", "ones", "full", "scalar_tensor", "arange", "linspace", "lift_fresh", "randn",
    "rand", "bernoulli_", "new_zeros", "new_ones", "new_empty", "new_full", "zeros_like",
    "ones_like", "empty_like", "full_like", "randn_like", "rand_like", "normal_", "uniform_",
}  # fmt: skip


class Planting(TorchDispatchMode):
    """Count the operations that compute, and put a number into what one of them gives.

    Args:
        at: which one, from one; zero for none.
        number: it is put there.
        where: the part of what it gives, from 0 to 1, behind which the number comes.

    Attributes:
        count: how many there were.
        name: of the one.
    """

    def __init__(self, at: int = 0, number: float = 0.0, where: float = 0.0) -> None:
        super().__init__()
        self.at, self.number, self.where = at, number, where
        self.count, self.name = 0, ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if computed := _computed(func, args, kwargs or {}, out):
            self.count += 1
            if self.count == self.at:
                self.name = func.__name__
                into = computed[int(self.where * len(computed))]
                into = into._values() if into.is_sparse else into
                index = torch.tensor(int(self.where * into.numel()))
                into[torch.unravel_index(index, into.shape)] = self.number
        return out


@cache
def _writes(func: Any) -> tuple[tuple[int, str], ...] | None:
    """Which arguments an operation writes to; None if it computes nothing of its own."""
    schema = func._schema
    views = any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)
    if views or schema.name.split("::")[1] in _MOVES:
        return None
    written = [(i, a) for i, a in enumerate(schema.arguments) if a.alias_info is not None]
    return tuple((i, a.name) for i, a in written if a.alias_info.is_write)


def _computed(func: Any, args: Any, kwargs: Any, out: Any) -> list[Tensor]:
    """The tensors of floats that an operation has made or written to, by computing."""
    writes = _writes(func)
    if writes is None:
        return []
    made = [args[i] if i < len(args) else kwargs.get(name) for i, name in writes] or [out]
    tensors = (t for m in made for t in (m if isinstance(m, list | tuple) else [m]))
    return [t for t in tensors if isinstance(t, Tensor) and t.is_floating_point() and t.numel()]


# Engines in which it is tried.


class Remembers(Lookahead):
    """A foreign optimizer that holds infinite numbers from the start, and keeps one of them."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, lr)
        self.least = [torch.tensor(torch.inf, dtype=torch.float64)]
        self.mask = torch.tensor([0.0, -torch.inf])

    def step(self, closure: Any = None) -> Any:
        gradients = [p.grad for g in self.param_groups for p in g["params"] if p.grad is not None]
        norm = torch.stack([torch.linalg.vector_norm(g) for g in gradients]).sum()
        torch.minimum(self.least[0], norm, out=self.least[0])
        self.mask.mul_(1.0)
        return super().step(closure)

    def hidden(self) -> tuple[Any, ...]:
        return *super().hidden(), self.least, self.mask


OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.5),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True),
    "foreign": lambda p: Lookahead(p, lr=1e-3),
    "with masks": lambda p: Remembers(p, lr=1e-3),
}
TURNS = {"together": lambda *problems: None, **SCHEDULES}


def drawn(seed: int, optimizer: str, schedule: str) -> mlopt.Engine:
    """A random graph under a schedule, whose problems have optimizers of one kind."""
    nodes = draw_graph(seed, torch.device("cpu"))
    problems = [node for node in nodes if isinstance(node, mlopt.Problem)]
    for problem in problems:
        held = [p for group in problem.optimizer.param_groups for p in group["params"]]
        problem.optimizer = OPTIMIZERS[optimizer](held)
        if isinstance(problem.hypergrad, mlopt.OneStep):  # nobody knows a foreign look-ahead
            problem.hypergrad = mlopt.OneStep(lr=0.1)
    return mlopt.Engine(nodes, schedule=TURNS[schedule](*problems))


#: Graphs that differ in form: staged and nested ones, of two to four levels.
SEEDS = (1, 2, 3, 5, 6, 8)
#: All solvers, and those of graphs above.
SOLVERS: dict[str, Any] = {
    "dense": mlopt.Dense(),
    "gmres": mlopt.GMRES(3),
    "nystrom": mlopt.Nystrom(3),
    "power iteration": mlopt.Neumann(3),
}
PLACES: dict[str, Callable[[], mlopt.Engine]] = {
    **{
        f"two levels, {n}": partial(two_levels, mlopt.Implicit(s, damping=9.0))
        for n, s in SOLVERS.items()
    },
    **{n: make for n, make in ALL.items() if not n.startswith("random")},
    **{
        f"random {i}, {o}, {s}": (lambda i=i, o=o, s=s: drawn(i, o, s))
        for i, o, s in itertools.product(SEEDS, OPTIMIZERS, TURNS)
    },
}
