"""What ranks of a test agree on, and where they are found to differ."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from compare import exact, rounding
from distributed.here import Engine, here, seeded
from distributed.laws import same_bits, slice_of
from distributed.rank_graphs import LAYERS, METHODS, nested
from engine.test_parts_of_batches import SPLITS
from small import F64, batches, sgd
from torch import Tensor, nn

import mlopt
from mlopt.distributed import EmptySlice


def said(run: Any) -> str:
    """The error that a function raises."""
    try:
        run()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def fit(net: nn.Module, data: Any, loss: Any = None, **options: Any) -> mlopt.Engine:
    """One problem over one network."""
    W = mlopt.Variable(net, "w")

    def squares(w: Any, batch: Any) -> Any:
        x, y = batch
        return (w(x) - y).square().mean()

    adam = torch.optim.Adam(W.parameters(), lr=0.1)
    made = mlopt.problem(over=W, data=data, optimizer=adam, name="fit")(loss or squares)
    return Engine([made], **options)


def parameters(engine: mlopt.Engine) -> list[Tensor]:
    return [p.detach().clone() for v in engine.graph.variables for p in v.parameters()]


def other_initial_values() -> list[Tensor]:
    """They are the first rank's."""
    engine = fit(seeded(dist.get_rank(), lambda: nn.Linear(3, 1)), slice_of(batches(1)))
    engine.plan()
    return parameters(engine)


def other_graphs() -> str:
    net = nn.Linear(3, 1 + dist.get_rank()).double().to(here())
    return said(lambda: fit(net, slice_of(batches(1))).step())


def other_optimizer_states() -> str:
    engine = fit(seeded(1, lambda: nn.Linear(3, 1)), slice_of(batches(1)))
    for p in engine.graph.variables[0].parameters():
        state = {"step": torch.tensor(1.0), "exp_avg": p.detach() + dist.get_rank()}
        engine.graph.problems[0].optimizer.state[p] = {
            **state, "exp_avg_sq": torch.ones_like(p)
        }  # fmt: skip
    return said(engine.step)


def something_outside() -> str:
    """A problem without data, which every rank computes by itself, reads the rank."""
    W = mlopt.Variable(seeded(1, lambda: nn.Linear(3, 1)), "w")
    V = mlopt.Variable(seeded(2, lambda: nn.Linear(3, 1)), "v")
    rank = dist.get_rank()

    @mlopt.problem(over=W, data=slice_of(batches(1)), optimizer=sgd(W))
    def fine(w, batch):
        x, y = batch
        return (w(x) - y).square().mean()

    @mlopt.problem(over=V, optimizer=sgd(V))
    def parted(v):
        return sum((p - rank).square().sum() for p in v.parameters())

    return said(Engine([fine, parted]).step)


def alone() -> list[list[Tensor]]:
    """With ranks=False, and in a group of one, a rank is by itself."""
    groups = [dist.new_group([r]) for r in range(dist.get_world_size())]
    found = []
    for own in (False, groups[dist.get_rank()]):
        engine = fit(seeded(1, lambda: nn.Linear(3, 1)), slice_of(batches(1)), ranks=own)
        engine.step()
        found.append(parameters(engine))
    return found


def subgroup() -> str:
    """Two of three ranks; the third is told that it is in none."""
    group = dist.new_group([0, 2])
    if dist.get_rank() == 1:
        return said(lambda: fit(seeded(1, lambda: nn.Linear(3, 1)), batches(1), ranks=group))
    x, y = batches(1)[0]
    own = slice(0, 3) if dist.get_rank() == 0 else slice(3, 6)
    engine = fit(seeded(1, lambda: nn.Linear(3, 1)), [(x[own], y[own])], ranks=group)
    whole = fit(seeded(1, lambda: nn.Linear(3, 1)), [(x, y)], parts=2, ranks=False)
    engine.step()
    whole.step()
    same_bits(parameters(engine), parameters(whole), "two of three")
    return ""


def how_a_batch_is_split(case: str) -> None:
    """The gradient is that of the joined batch."""
    fn, batch, options = SPLITS[case]
    options = dict(options)
    dim = options.get("split", 0)
    halves = {"function": 3}.get(case)
    if "data" in options:
        own: Any = tuple(slice_of(d) for d in options.pop("data"))
        whole: Any = SPLITS[case][2]["data"]
    else:
        own, whole = [_share(batch, 0 if callable(dim) or dim is False else dim)], [batch]
    w = torch.tensor([0.5, -1.0, 0.25], dtype=F64, device=here())

    def gradient(data: Any, **how: Any) -> Tensor:
        W = mlopt.Variable(w.clone().requires_grad_(), "w")
        given = {k: v for k, v in options.items() if k != "data" and not (halves and k == "split")}
        made = mlopt.problem(over=W, data=data, **given)(fn)
        return Engine([made], **how).hypergradient(made)[W][""]

    exact(gradient(own), gradient(whole, ranks=False), rounding(200, 10), what=case)


def _share(batch: Any, dim: int) -> Any:
    """This rank's share of a batch of any form."""
    rank, size = dist.get_rank(), dist.get_world_size()
    if isinstance(batch, dict):
        return {k: _share(v, dim) for k, v in batch.items()}
    length = batch.shape[dim] if hasattr(batch, "shape") else len(batch)
    each, more = divmod(length, size)
    sizes = [each + (r < more) for r in range(size)]
    start = sum(sizes[:rank])
    if isinstance(batch, Tensor):
        return batch.narrow(dim, start, sizes[rank])
    return batch[start : start + sizes[rank]]


class Forked(nn.Module):
    """A network of which a part is used where a sample asks for it, and another one never."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.rare, self.never = (nn.Linear(3, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        out = self.body(x)
        asked = x[:, 0] > 0
        return out + torch.where(asked, self.rare(x)[:, 0], 0.0)[:, None] if asked.any() else out


def parts_of_a_network() -> None:
    """What one rank alone uses moves on all; what none uses stays, momentum or not."""
    generator = torch.Generator().manual_seed(3)
    data = []
    for step in range(6):
        x = torch.randn(4, 3, generator=generator, dtype=F64)
        x[:, 0] = -x[:, 0].abs()
        if step in (1, 2, 4):  # it is asked for by the last sample
            x[3, 0] = 1
        data.append((x, x.sum(1, keepdim=True)))
    ranked = fit(seeded(1, Forked), slice_of(data))
    whole = fit(seeded(1, Forked), data, parts=2, ranks=False)
    for step in range(6):
        same_bits(list(ranked.step().values()), list(whole.step().values()), f"step {step}")
        same_bits(parameters(ranked), parameters(whole), f"step {step}")
    held = ranked.graph.problems[0].optimizer.state
    assert len(held) == 4, "never used, and yet it has a state"


def sparse_gradients() -> None:
    """Those of an embedding stay sparse; in the second step the other rank has none."""
    which, targets = torch.tensor([1, 2, 2, 5]), torch.ones(4, 2, dtype=F64)
    data = [(which, targets), (which[:1], targets[:1])]

    def made(rows: Any, **how: Any) -> mlopt.Engine:
        net = seeded(1, lambda: nn.Embedding(7, 2, sparse=True))
        W = mlopt.Variable(net, "w")
        adam = torch.optim.SparseAdam(list(net.parameters()), lr=0.1)

        @mlopt.problem(over=W, data=rows, optimizer=adam)
        def fit(w, batch):
            which, target = batch
            return (w(which) - target).square().mean()

        return Engine([fit], **how)

    ranked, whole = made(slice_of(data)), made(data, parts=2, ranks=False)
    for step in range(2):
        ranked.step()
        whole.step()
        same_bits(parameters(ranked), parameters(whole), f"step {step}")


def empty_slices() -> None:
    """A rank without samples counts nothing, whatever it would have returned."""
    x, y = batches(1)[0]
    rank = dist.get_rank()
    own = [(x[:3], y[:3]) if rank == 0 else (x[3:], y[3:])]
    own.append((x[:2], y[:2]) if rank == 0 else EmptySlice())  # type: ignore[arg-type]

    def engine(data: Any, **how: Any) -> mlopt.Engine:
        W = mlopt.Variable(seeded(1, lambda: nn.Linear(3, 1)), "w")
        V = mlopt.Variable(seeded(2, lambda: nn.Linear(3, 1)), "v")
        stream = mlopt.Stream(data)

        @mlopt.problem(over=W, given=[V], data=stream, optimizer=sgd(W), hypergrad=mlopt.OneStep())
        def lower(w, v, batch):
            x, y = batch
            return (w(x) * v(x).exp() - y).square().mean(), {"size": w(x).abs().mean()}

        @mlopt.signal(given=[W], data=stream)
        def rows(w, batch):
            return w(batch[0]).tanh()

        @mlopt.problem(over=V, given=[W, rows], data=stream, optimizer=sgd(V))
        def upper(v, w, rows, batch):
            x, y = batch
            return (w(x) + rows * v(x) - y).square().mean()

        return Engine([lower, rows, upper], **how)

    ranked = engine(own)
    whole = engine([(x, y), (x[:2], y[:2])], ranks=False)
    for step in range(2):
        found, expected = ranked.step(), whole.step()
        exact(found, expected, 1e-12, what=f"step {step}")
        exact(parameters(ranked), parameters(whole), 1e-12, what=f"step {step}")


def files_of_a_run(folder: str) -> tuple[int, list[str]]:
    """Logs and checkpoints are the first rank's; what each has logged, and the folder's files."""
    root = Path(folder)
    engine = fit(seeded(1, lambda: nn.Linear(3, 1)), slice_of(batches(2)))
    rows: list[Any] = []

    class Logger:
        def log(self, row: dict[str, Any]) -> None:
            rows.append(row)

        def close(self, status: str) -> None:
            rows.append(status)

    options: dict[str, Any] = {"log_every": 1, "progress": False, "loggers": [Logger()]}
    best = mlopt.BestCheckpoint(root / "best", "fit/loss", of="epoch")
    engine.run(epochs=2, callbacks=[mlopt.Checkpoint(root / "run", every=2), best], **options)
    dist.barrier()
    again = fit(seeded(5, lambda: nn.Linear(3, 1)), slice_of(batches(2)))
    observers = [mlopt.BestCheckpoint(root / "best", "fit/loss", of="epoch")]
    again.run(steps=4, resume=root / "run", callbacks=observers, progress=False)
    same_bits(parameters(again), parameters(engine), "resumed")
    return len(rows), sorted(str(p.relative_to(root)) for p in root.rglob("*.ckpt"))


def stop_of_one() -> int:
    """A callback of one rank ends the run on all."""

    class Ends(mlopt.Callback):
        def on_step(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
            if engine.steps == 3 and dist.get_rank() == 1:
                engine.stop()

    engine = fit(seeded(1, lambda: nn.Linear(3, 1)), slice_of(batches(2)))
    engine.run(steps=9, callbacks=[Ends()], progress=False)
    return engine.steps


def refused(graph: str) -> str:
    """What a signal says on ranks that has not a row for each sample."""
    del graph
    W = mlopt.Variable(seeded(1, lambda: nn.Linear(3, 1)), "w")
    data = mlopt.Stream(slice_of(batches(1)))

    @mlopt.signal(given=[W], data=data)
    def mean(w, batch):
        return w(batch[0]).mean(0)

    @mlopt.problem(over=W, given=[mean], data=data, optimizer=sgd(W))
    def fit(w, mean, batch):
        return (w(batch[0]) - mean).square().mean()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return said(Engine([mean, fit]).step)


def audit_of_one(method: str) -> bool:
    """One rank alone looks closely at its engine; then all take a step."""
    engine = Engine(nested(METHODS[method], slice_of, LAYERS["plain"]))
    same = True
    if dist.get_rank() == 0:
        same = bool(mlopt.audit(engine).worst < 1e-4)
    engine.step()
    return same


def spoilt_by_one(kind: str, method: str) -> str:
    """On the last rank something is not finite, though the losses are: what a step says."""
    W, A = (mlopt.Variable(seeded(k, lambda: nn.Linear(3, 1)), f"v{k}") for k in (1, 2))
    unlucky = dist.get_rank() == dist.get_world_size() - 1

    @mlopt.problem(
        over=W, given=[A], data=slice_of(batches(2)), optimizer=sgd(W), hypergrad=METHODS[method]
    )
    def lower(w, a, batch):
        x, y = batch
        loss = (w(x) * a(x).exp() - y).square().mean() + w.weight.square().sum()
        nothing = 0 * (w.weight * a.weight).sum()
        power = {"gradient": 0.5, "product": 1.5}[kind]  # of which 0 has no derivative, no second
        return loss + (nothing.abs() ** power if unlucky else nothing)

    @mlopt.problem(over=A, given=[W], data=slice_of(batches(2, seed=1)), optimizer=sgd(A))
    def upper(a, w, batch):
        x, y = batch
        return (w(x) + a(x) - y).square().mean()

    return said(Engine([lower, upper]).step)
