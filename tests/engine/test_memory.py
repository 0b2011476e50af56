"""The law of memory: a step leaves nothing behind, and an engine that is dropped is freed at once.

The collector is off: what it would have to find is a leak already, and circles that go through
autograd it never finds. Then all objects are counted, not tensors alone, since such a circle has
Python objects in it whatever else it holds; what torch itself leaves to the collector is let go.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import warnings
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine.memory_graphs import ENGINES
from sweep.random_graphs import draw_graph

import mlopt

STATM = Path("/proc/self/statm")


@pytest.fixture(autouse=True, scope="module")
def _what_was_there() -> None:
    """Neither counted nor walked through; a first step imports most of it."""
    take(next(iter(ENGINES.values()))(), 1)
    gc.freeze()


@pytest.fixture(autouse=True)
def _collector_off(_what_was_there: None) -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def take(engine: mlopt.Engine, steps: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlopt.ConvergenceWarning)  # two products do not suffice
        for _ in range(steps):
            engine.step()


def alive() -> Counter[str]:
    """How many objects of each kind there are, but for weak references, by which abc remembers
    the classes that isinstance has met.
    """
    count = Counter(type(x).__qualname__ for x in gc.get_objects())
    del count["ReferenceType"], count["builtin_function_or_method"]
    return count


def resident() -> int:
    """Bytes of this process in memory."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tensors() -> dict[int, torch.Tensor]:
    return {id(x): x for x in gc.get_objects() if issubclass(type(x), torch.Tensor)}


def of_the_user(problems: tuple[Any, ...]) -> set[int]:
    """What steps leave with the user's own objects: gradients, and the states of optimizers."""
    held: set[int] = set()
    for p in problems:
        for t in (t for v in p.over for t in v.parameters()):
            states = p.optimizer.state.get(t, {}).values() if p.optimizer else ()
            held |= {id(t.grad), *map(id, states)}
    return held


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 110, 10))
def test_steps_of_random_graphs_leave_nothing_behind(first: int) -> None:
    """Staged and nested ones, of any method, two to five levels deep."""
    flat = 0
    for seed in range(first, first + 10):
        engine = mlopt.Engine(draw_graph(seed, torch.device("cpu")))
        for group in (g for p in engine.graph.problems for g in p.optimizer.param_groups):
            group["lr"] *= 1e-3  # most would diverge within these steps
        try:
            take(engine, 3)
            assert_flat(engine, 12)
            flat += 1
        except mlopt.NonFiniteError:
            continue
    assert flat >= 5


def assert_flat(engine: mlopt.Engine, steps: int) -> None:
    gc.collect()  # what the first step left would hide as much of a leak
    known, before = len(tensors()), alive()
    take(engine, steps)
    assert len(tensors()) <= known
    gc.collect()
    grown = alive() - before
    assert sum(grown.values()) < steps / 2, grown  # not one object a step


@pytest.mark.parametrize("name", ENGINES)
def test_steps_leave_nothing_behind_and_a_dropped_engine_is_freed_at_once(name: str) -> None:
    engine = ENGINES[name]()
    problems = engine.graph.problems  # the user's own objects stay
    known = tensors()
    take(engine, 4)
    assert_flat(engine, 8)
    engine.plan()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlopt.ConvergenceWarning)
        engine.hypergradient(problems[-1])
        engine.run(steps=1, progress=False, callbacks=[mlopt.Callback()])
    parts = [engine, *(x for x in vars(engine).values() if hasattr(x, "__weakref__"))]
    watched = [(type(x).__qualname__, weakref.ref(x)) for x in parts]
    del engine, parts
    assert [kind for kind, ref in watched if ref() is not None and kind in OWN] == []
    left = [t for i, t in tensors().items() if i not in known and i not in of_the_user(problems)]
    assert left == []


#: The classes of an engine's parts; its schedule and device are the user's.
OWN = {"Engine", "Graph", "Evaluator", "Feed", "Compiler", "Clock"}


def test_compiled_engines_are_freed_too() -> None:
    W, R = (mlopt.Variable(torch.nn.Parameter(torch.ones(3)), n) for n in "wr")

    @mlopt.problem(over=W, given=[R], optimizer=torch.optim.SGD(W.parameters(), 0.1))
    def low(w, r):
        return ((w - r) ** 2).sum()

    @mlopt.problem(over=R, given=[W], optimizer=torch.optim.SGD(R.parameters(), 0.1))
    def high(r, w):
        return (w**2).sum() + (r**2).sum()

    method = mlopt.OneStep(product=mlopt.Central())
    engine = mlopt.Engine([low, high], hypergrad=method, compile={"backend": "eager"})
    take(engine, 2)
    reference = weakref.ref(engine)
    compiler = weakref.ref(engine._compiler)
    del engine
    assert reference() is None
    assert compiler() is None


RESIDENT = """
import sys, warnings
sys.path[:0] = {paths!r}
warnings.simplefilter("ignore")
from engine.test_memory import ENGINES, resident, take
engine = ENGINES[{name!r}]()
take(engine, 50)
before = resident()
take(engine, 200)
print(resident() / before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not STATM.exists(), reason="resident memory is read from /proc")
@pytest.mark.parametrize("name", ENGINES)
def test_resident_memory_is_flat(name: str) -> None:
    """In a process of its own: what other tests have freed comes and goes by megabytes."""
    root = Path(__file__).resolve().parents[2]
    program = RESIDENT.format(paths=[str(root), str(root / "tests")], name=name)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.01
