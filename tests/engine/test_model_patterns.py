"""Every pattern of models under every kind of hypergradient: right, or refused by name."""

from __future__ import annotations

import warnings
from functools import cache

import pytest
from compare import agree, exact, rounding
from engine.patterns import KINDS, RADIUS, Levels, Pattern, Program, state, trained
from engine.patterns_bent import BENT
from engine.patterns_graphs import GRAPHS
from engine.patterns_layers import LAYERS
from engine.patterns_weights import WEIGHTS
from torch import Tensor

import mlopt
from mlopt import CapabilityWarning, GraphError

PATTERNS: dict[str, Pattern] = {**LAYERS, **WEIGHTS, **GRAPHS, **BENT}
#: Under every kind, each time. The others under two, one of each sort of product: the rest is slow.
ALWAYS = {
    "rnn", "lstm", "attention", "fused attention", "embedding", "sparse embedding",
    "weight norm, old", "weight norm, new", "spectral norm, old", "spectral norm, new",
    "parametrisation", "lora", "frozen parts", "tied", "parameter list", "parameter dict",
    "checkpointed", "compiled, ahead of time", "data parallel", "straight through", "reversed",
    "own function", "own function, once", "activations in place", "dropout", "batch norm",
    "moving average", "fake quantisation", "complex", "structured", "none", "packed batches",
    "padded batches", "bfloat16",
}  # fmt: skip
OFTEN = {"unrolled", "one_step_central"}
GRID = [
    pytest.param(n, k, marks=[] if n in ALWAYS or k in OFTEN else pytest.mark.slow)
    for n in PATTERNS
    for k in KINDS
]
#: Third derivatives are in the hundreds at most.
THIRD = 100 / 6


@cache
def expected(name: str, ahead: str, seeds: tuple[int, ...]) -> Tensor:
    return Program(PATTERNS[name], list(seeds)).hypergradient(ahead)


@pytest.mark.filterwarnings("ignore::mlopt.ConvergenceWarning")  # of a series of three terms
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
