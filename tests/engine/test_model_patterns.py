"""Every pattern of models under every kind of hypergradient: right, or refused by name."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace
from functools import cache

import pytest
import torch
from compare import agree, exact, rounding
from engine import patterns
from engine.patterns import KINDS, LR, RADIUS, Levels, Pattern, Program, state, trained
from engine.patterns_bent import BENT
from engine.patterns_graphs import GRAPHS
from engine.patterns_layers import LAYERS
from engine.patterns_weights import WEIGHTS
from torch import Tensor

import mlopt
from mlopt import CapabilityWarning, GraphError

PATTERNS: dict[str, Pattern] = {**LAYERS, **WEIGHTS, **GRAPHS, **BENT}
#: Under four kinds of seven each time: two for all, one of each sort of product, and two more in
#: turn. The others under those two: the rest is slow.
MORE = {
    "rnn", "lstm", "attention", "fused attention", "embedding", "sparse embedding",
    "weight norm, old", "weight norm, new", "spectral norm, old", "spectral norm, new",
    "parametrisation", "lora", "frozen parts", "tied", "parameter list", "parameter dict",
    "checkpointed", "compiled, ahead of time", "data parallel", "straight through", "reversed",
    "own function", "own function, once", "activations in place", "dropout", "batch norm",
    "moving average", "fake quantisation", "complex", "structured", "none", "packed batches",
    "padded batches", "bfloat16",
}  # fmt: skip
OFTEN = {"unrolled", "one_step_central"}


def marks(name: str, kind: str) -> list[pytest.MarkDecorator]:
    if name == "compiled by inductor":
        without = shutil.which("g++") is None
        return [pytest.mark.slow, pytest.mark.skipif(without, reason="needs a C++ compiler")]
    return [] if kind in OFTEN or (name, kind) in IN_TURN else [pytest.mark.slow]


_FURTHER = [kind for kind in KINDS if kind not in OFTEN]
IN_TURN = {
    (name, _FURTHER[(i + j) % len(_FURTHER)]) for i, name in enumerate(sorted(MORE)) for j in (0, 2)
}
GRID = [pytest.param(n, k, marks=marks(n, k)) for n in PATTERNS for k in KINDS]
#: Third derivatives are in the hundreds at most.
THIRD = 100 / 6


@cache
def expected(name: str, ahead: str, seeds: tuple[int, ...]) -> Tensor:
    return Program(PATTERNS[name], list(seeds)).hypergradient(ahead)


@pytest.mark.filterwarnings("ignore::mlopt.ConvergenceWarning")  # of a series of three terms
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # which the compiler asks
@pytest.mark.parametrize(("name", "kind"), GRID)
def test_pattern(name: str, kind: str) -> None:
    pattern, method = PATTERNS[name], KINDS[kind]
    if pattern.refused or (pattern.second and kind == "unrolled"):
        with pytest.raises(GraphError, match=pattern.refused or pattern.second):
            Levels(pattern, method).engine.step()
        return
    levels = Levels(pattern, method)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CapabilityWarning)
        found = levels.hypergradient()
    texts = [str(w.message) for w in caught if issubclass(w.category, CapabilityWarning)]
    words = pattern.differences if method.differences else pattern.said or pattern.second
    assert [words in text for text in texts] == [True] * bool(words), texts
    if not (method.differences and pattern.differences):
        # what has no second derivatives is mended by differences of their default radius
        radius = RADIUS if method.differences else mlopt.Central().radius
        bound, why = pattern.bound, ""
        if method.differences or pattern.second:
            bound = THIRD * radius**2 + bound / radius + pattern.constants
            why = "radius^2 / 6 of the third derivative, and rounding over the radius"
        agree(found, expected(name, method.ahead, tuple(levels.seeds)), bound, why)
    before = levels.r.detach().clone()
    levels.engine.step()
    exact(levels.r, before - found, rounding(4))
    agree(state(levels.net), state(trained(pattern, method, levels.seeds)), pattern.bound)


class Foreign(torch.optim.SGD):
    """An optimizer of whose steps nothing is known."""


@pytest.mark.filterwarnings("ignore::mlopt.ConvergenceWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_optimizer(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what goes through its steps is refused."""
    monkeypatch.setattr(patterns, "optimizer", lambda pattern, kind, p: Foreign(p, LR))
    pattern, method = PATTERNS["gru"], KINDS[kind]
    if method.ahead != "optimum":
        with pytest.raises(GraphError, match="low: .*Foreign"):
            Levels(pattern, method)
        if "one_step" not in kind:
            return
        method = replace(method, method=replace(method.method, lr=LR))  # type: ignore[type-var]
    levels = Levels(pattern, method)
    found = levels.hypergradient()
    program = Program(replace(pattern, decay=0.0), levels.seeds)
    bound, why = pattern.bound, ""
    if method.differences:
        bound, why = THIRD * RADIUS**2 + bound / RADIUS, "as above"
    agree(found, program.hypergradient(method.ahead), bound, why)
    levels.engine.step()
    agree(state(levels.net), state(trained(pattern, method, levels.seeds)), pattern.bound)
