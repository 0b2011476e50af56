"""Steps into which an exception falls, at any call: engines of every kind, and what they hold."""

from __future__ import annotations

import copy
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from engine.memory_graphs import ENGINES
from small import F64, bilevel, mlp, state_of
from sweep.random_graphs import draw_graph
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau, SequentialLR, StepLR
from torch.utils.data import DataLoader, TensorDataset

import mlopt
from mlopt import _turn


class Injected(Exception):
    """What falls into a step."""


class Interrupted(BaseException):
    """The same, of the kind of Ctrl-C."""


class Lookahead(torch.optim.SGD):
    """A foreign optimizer: slow weights and counts outside of `state`, in containers of its own."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, lr=lr, momentum=0.5)
        self.slow = [p.detach().clone() for g in self.param_groups for p in g["params"]]
        self.seen: dict[str, list[int]] = {"steps": []}
        self.count = 0
        self.random = random.Random(3)
        self.inner = Holder()

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        self.count += 1
        self.seen["steps"].append(self.count)
        self.inner.best = self.inner.best + self.random.random()
        fast = [p for g in self.param_groups for p in g["params"]]
        if self.count % 2 == 0:
            with torch.no_grad():
                for s, f in zip(self.slow, fast, strict=True):
                    s.lerp_(f, 0.5)
                    f.copy_(s)
        return loss

    def hidden(self) -> tuple[Any, ...]:
        """What it holds outside of `state`."""
        return self.slow, self.seen, self.count, self.random.getstate(), self.inner.best


class Holder:
    """An object with slots, that an optimizer counts in."""

    __slots__ = ("best",)

    def __init__(self) -> None:
        self.best = 0.0


def loaders(optimizer: str) -> mlopt.Engine:
    """Two levels on shuffled loaders, one without a length, with schedulers and a foreign step."""
    make: Callable[[mlopt.Variable], Any] = {
        "sgd": lambda v: torch.optim.SGD(v.parameters(), lr=0.1, momentum=0.9),
        "adam": lambda v: torch.optim.Adam(v.parameters(), lr=0.01, amsgrad=True),
        "foreign": lambda v: Lookahead(v.parameters(), lr=0.1),
    }[optimizer]
    x = torch.linspace(-1, 1, 36, dtype=F64).reshape(12, 3)
    y = x.sum(1, keepdim=True).sin()
    made = bilevel(
        mlp(),
        optimizer=make,
        upper_optimizer=lambda v: torch.optim.AdamW(v.parameters(), lr=0.01),
        hypergrad=mlopt.OneStep(lr=0.1, product=mlopt.Central()),
        train=DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True),
        valid=Unsized(DataLoader(TensorDataset(x, y), batch_size=6, shuffle=True)),
    )
    lower = made.lower.optimizer
    made.lower.scheduler = mlopt.PerStep(
        SequentialLR(lower, [StepLR(lower, 1, 0.9), CosineAnnealingLR(lower, 9)], [3])
    )
    made.upper.scheduler = ReduceLROnPlateau(made.upper.optimizer, patience=0)
    return made.engine()


class Unsized:
    """A loader that does not say how long a pass is."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)


def drawn(seed: int) -> mlopt.Engine:
    """A random graph that no step drives away."""
    engine = mlopt.Engine(draw_graph(seed, torch.device("cpu")))
    for group in (g for p in engine.graph.problems for g in p.optimizer.param_groups):
        group["lr"] *= 1e-3
    return engine


ALL: dict[str, Callable[[], mlopt.Engine]] = {
    **{f"loaders, {n}": (lambda n=n: loaders(n)) for n in ("sgd", "adam", "foreign")},
    **ENGINES,
    **{f"random {i}": (lambda i=i: drawn(i)) for i in range(1, 41)},
}


#: Undisturbed steps before the first one into which something falls.
BEFORE = 2


def take(engine: mlopt.Engine, steps: int = 1) -> None:
    """Take steps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlopt.ConvergenceWarning)
        for _ in range(steps):
            engine.step()


def held(engine: mlopt.Engine) -> dict[str, Any]:
    """All that a step may change."""
    out = state_of(engine)
    del out["rng"]  # optimizers and loaders of the user may draw from it
    out["clock"] = dict(engine.clock.means)
    for p in engine.graph.problems:
        if isinstance(p.optimizer, Lookahead):
            out[f"{p.name} more"] = copy.deepcopy(p.optimizer.hidden())
    return out


def _in_vmap(frame: Any) -> bool:
    while frame is not None:
        if "_functorch" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


def _between(frame: Any, event: str) -> list[str]:
    """The names of the files in which a call is made, and in which the function stands."""
    frames = [frame, frame.f_back] if event == "call" else [frame]
    return [f.f_code.co_filename.rsplit(os.sep, 1)[-1] for f in frames if f is not None]


def _gives_back(function: Any) -> bool:
    """Whether this gives the turn back, or ends a `with`, in C: into that nothing falls.

    It raises nothing itself, and a signal's handler runs when a call has returned, or a function of
    Python begins: so not between the first word of a `finally`, or the end of a `with`, and a call
    of C there. A guard of torch that is not ended would stay for the rest of the process.
    """
    if function.__name__ == "__exit__":
        return True
    return getattr(function, "__self__", None) is _turn._lock and function.__name__ == "release"


@contextmanager
def falling(
    at: int, error: type[BaseException], name: str = "", files: tuple[str, ...] = ()
) -> Iterator[list[int]]:
    """Raise at the call with this number, of a function of Python or C; the list counts them.

    Args:
        at: the number, from one; zero for none.
        error: what is raised.
        name: of the only function that counts.
        files: those in which it is called, or stands; by default all.
    """
    count = [0]

    def note(frame: Any, event: str, argument: Any) -> None:
        if event == "call" or (event == "c_call" and not name and not _gives_back(argument)):
            if files and not any(f in files for f in _between(frame, event)):
                return
            count[0] += not name or frame.f_code.co_name == name
            # vmap cannot take it inside of its own, and evaluates members one by one after an error
            if at and count[0] >= at and not _in_vmap(frame):
                sys.setprofile(None)
                raise error(f"in {frame.f_code.co_name if event == 'call' else argument}")

    sys.setprofile(note)
    try:
        yield count
    finally:
        sys.setprofile(None)
        # or whoever runs later in this process has no modes
        assert torch._C._is_torch_function_enabled()
