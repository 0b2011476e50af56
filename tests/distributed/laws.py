"""What the ranks of a test compute: each its own share, and the whole by itself."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.distributed as dist
from compare import exact
from distributed.rank_graphs import GRAPHS, LAYERS, METHODS
from sweep.random_parts import draw_graph_with_data

import mlopt


def slice_of(batch: Any, sizes: list[int] | None = None) -> Any:
    """The rows of a batch that are this rank's."""
    rank, size = dist.get_rank(), dist.get_world_size()
    if isinstance(batch, tuple | list):
        return type(batch)(slice_of(b, sizes) for b in batch)
    if sizes is None:
        each, more = divmod(len(batch), size)
        sizes = [each + (r < more) for r in range(size)]
    return batch[sum(sizes[:rank]) : sum(sizes[: rank + 1])]


def _first(batch: Any, samples: int) -> Any:
    return tuple(t[:samples] for t in batch)


def numbers(engine: mlopt.Engine) -> list[Any]:
    """Hypergradients, metrics of a step, and the parameters after two."""
    problems = engine.graph.problems
    found: list[Any] = [
        {f"{v.name} {k}": t for v, own in engine.hypergradient(p).items() for k, t in own.items()}
        for p in problems
    ]
    found.append(engine.step())
    engine.step()
    parameters = [p.detach() for q in problems for v in q.over for p in v.parameters()]
    return [*found, torch.cat([p.flatten() for p in parameters])]


def same_bits(found: Any, expected: Any, what: str) -> None:
    """Two results are the same to the bit."""
    if isinstance(expected, dict):
        assert list(found) == list(expected), f"{what}: {list(found)} for {list(expected)}"
        for key, value in expected.items():
            same_bits(found[key], value, f"{what}, {key}")
    elif isinstance(expected, list | tuple):
        for i, (a, b) in enumerate(zip(found, expected, strict=True)):
            same_bits(a, b, f"{what}, {i}")
    elif not torch.equal(torch.as_tensor(found), torch.as_tensor(expected)):
        raise AssertionError(f"{what}: {found} for {expected}")


def random_graph(seed: int, bound: float) -> None:
    """N ranks give what one rank with N parts gives; to the bit, if no bound is given."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlopt.CapabilityWarning)
        here = torch.device("cpu")
        alone = mlopt.Engine(
            draw_graph_with_data(seed, here), parts=dist.get_world_size(), ranks=False
        )
        expected = numbers(alone)
        ranked = mlopt.Engine(draw_graph_with_data(seed, here, slice_of))
        if bound:
            exact(numbers(ranked), expected, bound, what=f"graph {seed}")
        else:
            same_bits(numbers(ranked), expected, f"graph {seed}")


def graph_law(graph: str, method: str, layer: str, bound: float, samples: int = 12) -> None:
    """The law for one of the graphs of `rank_graphs`; to the bit, if no bound is given."""
    size = dist.get_world_size()
    made = GRAPHS[graph]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlopt.CapabilityWarning)
        warnings.simplefilter("ignore", mlopt.ConvergenceWarning)
        # of twelve samples, the first so many
        nodes = made(METHODS[method], lambda batch: _first(batch, samples), LAYERS[layer])
        expected = numbers(mlopt.Engine(nodes, parts=size, ranks=False))
        found = numbers(
            mlopt.Engine(
                made(METHODS[method], lambda batch: slice_of(_first(batch, samples)), LAYERS[layer])
            )
        )
        if bound:
            exact(found, expected, bound, what=f"{graph} by {method}")
        else:
            same_bits(found, expected, f"{graph} by {method}")


def planned_and_counted(graph: str, method: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """What a plan says of a step that goes between ranks, what does, and the plan."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlopt.CapabilityWarning)
        warnings.simplefilter("ignore", mlopt.ConvergenceWarning)
        engine = mlopt.Engine(GRAPHS[graph](METHODS[method], slice_of, LAYERS["batch norm"]))
        engine.step()  # what is asked for once
        plan = engine.plan()
        before = engine.traffic
        engine.step()
    after = engine.traffic
    counted = {
        what: (count - before.get(what, (0, 0))[0], size - before.get(what, (0, 0))[1])
        for what, (count, size) in after.items()
    }
    return plan.traffic.per_purpose, {k: v for k, v in counted.items() if v != (0, 0)}, str(plan)
