"""What the ranks of a test compute: each its own share, and the whole by itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from compare import exact
from distributed.here import Engine, here, seeded
from distributed.rank_graphs import GRAPHS, LAYERS, METHODS
from sweep.random_parts import draw_graph_with_data
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import mlopt
from mlopt._engine import stepper
from mlopt.distributed.ranks import Ranks
from mlopt.distributed.sums import Sums


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
    """Hypergradients, metrics of a step, and the parameters after two, on the host."""
    problems = engine.graph.problems
    found: list[Any] = [
        {
            f"{v.name} {k}": t.cpu()
            for v, own in engine.hypergradient(p).items()
            for k, t in own.items()
        }
        for p in problems
    ]
    found.append(
        {k: t.cpu() if isinstance(t, torch.Tensor) else t for k, t in engine.step().items()}
    )
    engine.step()
    parameters = [p.detach().cpu() for q in problems for v in q.over for p in v.parameters()]
    return [*found, torch.cat([p.flatten() for p in parameters])]


def of_first(make: Callable[[], Any]) -> Any:
    """What a function gives on the first rank, which alone computes it."""
    found = [make() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(found)
    return found[0]


def same_bits(found: Any, expected: Any, what: str) -> None:
    """Two results are the same to the bit; on a GPU, whose sums take any order, to rounding."""
    if here().type == "cuda":
        exact(found, expected, 1e-9, what=what)
        return
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
        alone = Engine(draw_graph_with_data(seed, here()), parts=dist.get_world_size(), ranks=False)
        expected = numbers(alone)
        ranked = Engine(draw_graph_with_data(seed, here(), slice_of))
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
        expected = of_first(lambda: numbers(Engine(nodes, parts=size, ranks=False)))
        found = numbers(
            Engine(
                made(METHODS[method], lambda batch: slice_of(_first(batch, samples)), LAYERS[layer])
            )
        )
        if bound:
            exact(found, expected, bound, what=f"{graph} by {method}")
        else:
            same_bits(found, expected, f"{graph} by {method}")


def graph_law_of_one(graph: str, method: str) -> str:
    """The law for a group of one, which an engine else takes for none; the group's backend."""
    with patch.object(
        stepper, "found", lambda own: None if own is False else Ranks(dist.group.WORLD)
    ):
        graph_law(graph, method, "batch norm", 0.0)
    return dist.get_backend()


def sums_of_one() -> bool:
    """What tensors, sparse ones, rows and numbers of the host come to in a group of one."""
    ranks = Ranks(dist.group.WORLD)
    sums = Sums(ranks)
    a = torch.arange(6.0, device=here()).view(3, 2)
    sparse = torch.stack([a[0], 0 * a[0]]).to_sparse()
    soon, later = sums.soon([a]), a.clone()
    sums.later([later])
    sums.arrive()
    sums.settle()
    first = a.clone()
    ranks.wait(ranks.hand_out(first))
    ranks.reached(a.device)
    found = [*sums.now([a]), *soon, later, first, sums.lined_up(a, [3])]
    [again] = sums.now([sparse])
    host = ranks.exchange([1.0, 2.0]) == [[1.0, 2.0]] and ranks.collect("said") == ["said"]
    return host and all(map(a.equal, found)) and again.to_dense().equal(sparse.to_dense())


def planned_and_counted(graph: str, method: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """What a plan says of a step that goes between ranks, what does, and the plan."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlopt.CapabilityWarning)
        warnings.simplefilter("ignore", mlopt.ConvergenceWarning)
        engine = Engine(GRAPHS[graph](METHODS[method], slice_of, LAYERS["batch norm"]))
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


def sampler_law() -> None:
    """Loaders with a DistributedSampler as they are: the step of all their samples together."""
    rank, size = dist.get_rank(), dist.get_world_size()
    x = torch.randn(22, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    data = TensorDataset(x, x.sin().sum(1, keepdim=True))

    def loader(of: int) -> DataLoader[Any]:  # 22 samples on two ranks: batches of 4, 4 and 3
        return DataLoader(data, 4, sampler=DistributedSampler(data, size, of, seed=5))

    def joined() -> Iterator[Any]:
        """The batches of three passes as one process has them."""
        for epoch in range(3):
            each = [loader(of) for of in range(size)]
            for one in each:
                one.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
            for found in zip(*each, strict=True):
                yield tuple(torch.cat([batch[i] for batch in found]) for i in range(2))

    def made(batches: Any, **how: Any) -> mlopt.Engine:
        W = mlopt.Variable(seeded(2, lambda: nn.Linear(3, 1)), "w")

        @mlopt.problem(over=W, data=batches, optimizer=torch.optim.Adam(W.parameters()))
        def fit(w, batch):
            x, y = batch
            return (w(x) - y).square().mean()

        return Engine([fit], **how)

    ranked, whole = made(loader(rank)), made(list(joined()), parts=size, ranks=False)
    for step in range(9):
        same_bits(ranked.step(), whole.step(), f"step {step}")
    same_bits(
        *([p.detach() for p in e.graph.variables[0].parameters()] for e in (ranked, whole)), ""
    )
