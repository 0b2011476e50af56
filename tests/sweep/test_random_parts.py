"""The parts law on random graphs: a batch in parts gives what the joined batch gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compare import exact
from sweep.random_parts import draw_graph_with_data

import mlopt

#: Asked for by the law; sums over samples in another order, through at most five levels that are
#: differentiated twice, leave less than a hundredth of it.
BOUND = 1e-10
SEEDS = range(100)
BLOCK = 10


def results(seed: int, parts: int) -> list[Any]:
    """Hypergradients, metrics of a step, and the parameters after two."""
    nodes = draw_graph_with_data(seed, torch.device("cpu"))
    engine = mlopt.Engine(nodes, parts=parts)
    problems = engine.graph.problems
    found: list[Any] = [
        {f"{v.name} {k}": t for v, own in engine.hypergradient(p).items() for k, t in own.items()}
        for p in problems
    ]
    found.append(engine.step())
    engine.step()
    parameters = [p.detach() for q in problems for v in q.over for p in v.parameters()]
    return [*found, torch.cat([p.flatten() for p in parameters])]


@pytest.mark.filterwarnings("ignore::mlopt.CapabilityWarning")  # of differences that are far off
@pytest.mark.parametrize("first", range(0, len(SEEDS), BLOCK))
def test_parts_law_on_random_graphs(first):
    for seed in SEEDS[first : first + BLOCK]:
        joined = results(seed, 1)
        for parts in (2,) if seed % 5 else (2, 3):
            exact(results(seed, parts), joined, BOUND, what=f"graph {seed} in {parts} parts")
