"""What ranks compute where variables live on some of them, and one process without that."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from compare import exact
from distributed.agreements import said
from distributed.here import Engine, here, seeded
from distributed.laws import numbers, same_bits
from distributed.rank_graphs import GRAPHS, LAYERS, METHODS
from small import F64
from torch import nn
from torch.nn.functional import dropout
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import mlopt
from mlopt.distributed import split, sync_batch_norm

#: By the name of a variable.
Places = dict[str, Any]


def first_of(samples: int) -> Any:
    """The first so many samples of a whole batch, which every rank is given."""
    return lambda batch: tuple(t[:samples] for t in batch)


def engine_of(nodes: list[Any], places: Places | None, **options: Any) -> mlopt.Engine:
    """An engine whose variables live where it is said by their names; without, a lone one."""
    if places is None:
        return Engine(nodes, ranks=False, **options)
    variables = Engine(nodes, ranks=False, hypergrad=options.get("hypergrad")).graph.variables
    named = {v: places[v.name] for v in variables if v.name in places}
    return Engine(nodes, places=named, **options)


def quietly(function: Any) -> Any:
    """What a function returns, without warnings of what the graphs of these tests are like."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlopt.CapabilityWarning)
        warnings.simplefilter("ignore", mlopt.ConvergenceWarning)
        return function()


def home_law(
    graph: str, method: str, layer: str, places: Places, bound: float, samples: int = 12
) -> None:
    """Levels on ranks of their own give what one process gives; to the bit without a bound."""

    def made(places: Places | None) -> Any:
        nodes = GRAPHS[graph](METHODS[method], first_of(samples), LAYERS[layer])
        return numbers(engine_of(nodes, places))

    expected, found = quietly(lambda: made(None)), quietly(lambda: made(places))
    what = f"{graph} by {method}, {places}"
    if bound:
        exact(found, expected, bound, what=what)
    else:
        same_bits(found, expected, what)


def planned_and_counted(graph: str, method: str, places: Places) -> tuple[Any, Any, str]:
    """What a plan says of a step that goes between ranks, what does, and the plan."""

    def made() -> tuple[Any, Any, str]:
        nodes = GRAPHS[graph](METHODS[method], first_of(12), LAYERS["batch norm"])
        engine = engine_of(nodes, places)
        engine.step()  # what is asked for once
        plan, before = engine.plan(), engine._agreement.traffic.copy()
        engine.step()
        counted = engine._agreement.traffic.since(before)
        return plan.traffic.per_purpose, counted.per_purpose, str(plan)

    return quietly(made)


def rows_of_every_kind(places: Places) -> None:
    """Signals of rows, of whole batches of any size, of truths and of whole numbers."""

    def made(places: Places | None) -> Any:
        x = torch.arange(14, dtype=F64).reshape(7, 2) / 7
        data = mlopt.Stream([x[:4], x[4:]])
        W, V = (
            mlopt.Variable(nn.Parameter(torch.full((2,), 0.3, dtype=F64, device=here())), n)
            for n in "wv"
        )

        @mlopt.signal(given=[W], data=data)
        def rows(w, batch):
            found = batch @ w
            return {
                "value": found,
                "large": found.detach() > 0.5,
                "count": (7 * batch[:, 0]).long(),
            }

        @mlopt.signal(given=[W], data=data, split=False)
        def ranked(w, batch):
            found = batch @ w
            return found.sort().values[: len(batch) - 1]

        @mlopt.signal(given=[ranked], combine="sum")
        def spread(ranked):
            return ranked[-1] - ranked[0]

        @mlopt.problem(over=W, data=data, optimizer=torch.optim.SGD(W.parameters(), lr=0.1))
        def low(w, batch):
            return (batch @ w - 1).square().mean(), {"kind": "low", "mean": batch.mean()}

        @mlopt.problem(
            over=V, given=[rows, ranked, spread], data=data,
            optimizer=torch.optim.SGD(V.parameters(), lr=0.1),
        )  # fmt: skip
        def high(v, rows, ranked, spread, batch):
            own = batch @ v * rows["value"] * (1 + rows["large"])
            return (
                own.mean()
                + ranked.sum() * spread * v.sum()
                + rows["count"].double().mean() * (v**2).sum()
            )

        nodes = [low, rows, ranked, spread, high]
        engine = engine_of(nodes, places, hypergrad=mlopt.OneStep())
        steps = [engine.step() for _ in range(3)]
        kept = [{k: t for k, t in m.items() if k != "low/kind"} for m in steps]
        return [kept, engine.signals, W.value.detach(), V.value.detach()]

    exact(made(places), made(None), 1e-12, what=f"{places}")


def refusals() -> list[str]:
    """What is said of places that are none."""
    data = [torch.ones(4, 2)]
    W, V, U = (mlopt.Variable(nn.Parameter(torch.ones(2, device=here())), n) for n in "wvu")

    def engine(places: Any, data: Any = data, ranks: Any = None) -> Any:
        @mlopt.problem(over=[W, V], data=data, optimizer=torch.optim.SGD(W.parameters(), lr=0.1))
        def fit(wv, batch):
            return (batch @ (wv[0] * wv[1])).mean()

        return lambda: Engine([fit], places=places, ranks=ranks)

    rows = TensorDataset(torch.ones(4, 2))
    sampled = DataLoader(rows, batch_size=2, sampler=DistributedSampler(rows))
    both = {W: 0, V: 0}
    made = [
        engine({W: 2, V: 2}),
        engine({W: -1, V: -1}),
        engine({W: 0, V: 1}),
        engine({W: (0, 0), V: 0}),
        engine({W: (), V: 0}),
        engine({**both, U: 0}),
        engine({"w": 0}),
        engine({W: True, V: True}),
        engine({W: 0.5, V: 0.5}),
        engine(both, ranks=False),
        engine([W, V]),
        engine({}),
        engine(both, data=split(DataLoader(rows, batch_size=2))),
        engine(both, data=sampled),
        lambda: engine(both)().plan(ranks=5),
    ]
    return [said(run) for run in made]


def batch_norm_at_home(places: Places, bound: float = 0.0) -> str:
    """BatchNorm over all ranks, where some of them evaluate what has it."""

    def made(places: Places | None) -> Any:
        net = seeded(1, lambda: nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))
        W = mlopt.Variable(sync_batch_norm(net), "w")
        x = torch.arange(12, dtype=F64).reshape(6, 2).sin()

        @mlopt.problem(over=W, data=[x], optimizer=torch.optim.SGD(W.parameters(), lr=0.1))
        def fit(w, batch):
            return w(batch).square().sum(1).sigmoid().mean()

        engine = engine_of([fit], places)
        engine.step()
        return [t.cpu() for t in engine.graph.variables[0].value.state_dict().values()]

    if bound:
        return said(lambda: exact(made(places), made(None), bound, what="batch norm"))
    return said(lambda: same_bits(made(places), made(None), "batch norm"))


def trained(places: Places | None, steps: int, folder: str, resume: bool = True) -> list[Any]:
    """The end of a run, which goes on from a folder of checkpoints."""

    def made() -> list[Any]:
        nodes = GRAPHS["lfm-cw"](METHODS["exact"], first_of(12), LAYERS["plain"])
        engine = engine_of(nodes, places)
        kept = mlopt.Checkpoint(folder, every=2)
        engine.run(steps=steps, progress=False, resume=folder if resume else None, callbacks=[kept])
        held = [v.value for v in engine.graph.variables]
        modules = [t for v in held if isinstance(v, nn.Module) for t in v.state_dict().values()]
        tensors = [*modules, *(v.detach() for v in held if isinstance(v, torch.Tensor))]
        return [t.cpu() for t in tensors]

    return quietly(made)


def schedule_law(kind: str, places: Places) -> None:
    """Schedules with several commits in a step give what they give in one process."""

    def made(places: Places | None) -> Any:
        method = METHODS["exact" if kind == "upper first" else "frozen"]
        nodes = GRAPHS["sgl"](method, first_of(12), LAYERS["plain"])
        first, second, last = nodes[:3], nodes[6:9], nodes[9]
        schedule = {
            "sequential": mlopt.Sequential,
            "upper first": mlopt.UpperFirst,
            "turns": lambda: mlopt.Alternate((tuple(first), 2), (tuple(second), 1), (last, 1)),
            "until": lambda: mlopt.Alternate(
                (tuple(first), mlopt.Until(0.4, 4)), (tuple(second), 1), (last, 1)
            ),
        }[kind]()
        return numbers(engine_of(nodes, places, schedule=schedule))

    exact(quietly(lambda: made(places)), quietly(lambda: made(None)), 1e-12, what=kind)


def parts_law(places: Places) -> None:
    """So it is where each rank takes what it has in parts."""

    def made(places: Places | None) -> Any:
        nodes = GRAPHS["lfm-cw"](METHODS["central"], first_of(12), LAYERS["plain"])
        return numbers(engine_of(nodes, places, parts=2))

    exact(quietly(lambda: made(places)), quietly(lambda: made(None)), 1e-12, what=f"{places}")


def shuffled_law(places: Places) -> None:
    """Loaders that shuffle give all ranks the batches of one process, and dropout its masks."""

    def made(places: Places | None) -> Any:
        x = seeded(3, lambda: nn.Parameter(torch.randn(30, 3, dtype=F64))).detach().cpu()
        data = DataLoader(TensorDataset(x, x.sum(1)), batch_size=7, shuffle=True)
        W = mlopt.Variable(seeded(4, lambda: nn.Linear(3, 1, dtype=F64)), "w")
        A = mlopt.Variable(seeded(5, lambda: nn.Parameter(torch.zeros(3, dtype=F64))), "a")

        @mlopt.problem(
            over=W, given=[A], data=data, optimizer=torch.optim.Adam(W.parameters(), lr=0.1)
        )
        def low(w, a, batch):
            x, y = batch
            return (w(dropout(x, 0.3) * a.exp())[:, 0] - y).square().mean()

        @mlopt.problem(
            over=A, given=[W], data=data, optimizer=torch.optim.Adam(A.parameters(), lr=0.1)
        )
        def high(a, w, batch):
            x, y = batch
            return (w(x)[:, 0] - y).square().mean()

        engine = engine_of([low, high], places, hypergrad=mlopt.OneStep())
        engine.run(epochs=2, progress=False)
        return [p.detach() for v in (W, A) for p in v.parameters()]

    exact(made(places), made(None), 1e-12, what=f"{places}")
