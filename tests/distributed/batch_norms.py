"""What ranks compute with BatchNorm over all of them, and one process by itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from compare import exact, kills
from distributed.here import Engine, here, seeded
from distributed.laws import slice_of
from distributed.rank_graphs import GRAPHS, METHODS, batches, net, penalty, steps, weights
from small import F64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

import mlopt
from mlopt import DataError
from mlopt._batch_norm import Normalisation
from mlopt.distributed import EmptySlice, sync_batch_norm
from mlopt.distributed.ranks import found
from mlopt.distributed.shared_sums import Together, together
from mlopt.distributed.sums import Sums
from mlopt.hypergrad.derivatives import scaled

LAW = 1e-12


# Graphs.


class Recomputed(nn.Module):
    """BatchNorm that is computed again in the backward pass; statistics would count that."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(size, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.norm, x, use_reentrant=False)


KINDS: dict[str, Callable[[int], nn.Module]] = {
    "plain": nn.BatchNorm1d,
    "recomputed": Recomputed,
    "cumulative": lambda n: nn.BatchNorm1d(n, momentum=None, affine=False),
    "untracked": lambda n: nn.BatchNorm1d(n, track_running_stats=False),
}


def joined_law(
    graph: str, method: str, kind: str = "plain", sizes: list[int] | None = None, scale: Any = None
) -> None:
    """Ranks that normalise together give what one rank gives for the whole batch."""
    samples = 12 if sizes is None else sum(sizes)
    made, how = GRAPHS[graph], METHODS[method]

    def first(batch: Any) -> Any:
        return tuple(t[:samples] for t in batch)

    def own(batch: Any) -> Any:
        return slice_of(first(batch), sizes)

    with quiet():
        alone = Engine(made(how, first, KINDS[kind]), ranks=False)
        ranked = Engine(made(how, own, lambda n: sync_batch_norm(KINDS[kind](n))))
        expected = numbers(alone)
        with scaled(scale):
            found = numbers(ranked)
        exact(found, expected, LAW, what=f"{graph} by {method}")
        if kind == "plain" and method == "exact":
            apart = Engine(made(how, own, KINDS[kind]))
            kills(numbers(apart), expected, LAW)


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlopt.CapabilityWarning)
        warnings.simplefilter("ignore", mlopt.ConvergenceWarning)
        yield


def numbers(engine: mlopt.Engine) -> list[Any]:
    """The hypergradient of each problem, metrics of a step, and what there is after two.

    Of a hypergradient all is one vector: an offset before BatchNorm has none, and its rounding
    is relative to the others.
    """
    problems = engine.graph.problems
    found: list[Any] = []
    for problem in problems:
        each = engine.hypergradient(problem).values()
        found.append(torch.cat([t.flatten() for own in each for t in own.values()]))
    found.append({k: v for k, v in engine.step().items() if isinstance(v, Tensor)})
    engine.step()
    values = [v.value for p in problems for v in p.over]
    found.append(torch.cat([p.detach().flatten() for p in map(_vector, values)]))
    modules = [v for v in values if isinstance(v, nn.Module)]
    return found + [b.clone() for m in modules for b in m.buffers()]


def _vector(value: Any) -> Tensor:
    if isinstance(value, nn.Module):
        return torch.cat([p.flatten() for p in value.parameters()])
    return value


# Layers.


def law_of_layer(name: str, order: int = 3) -> None:
    """A layer by itself: values, derivatives of each order, running statistics.

    Its oracle is written out of elementary operations on the joined batch.
    """
    make, shape = LAYERS[name]
    sums, rank = ranks()
    layer = seeded(1, make)
    disturb(layer)
    sizes = [5, 3] if sums.ranks.size == 2 else [4, 1, 3]
    generator = torch.Generator().manual_seed(2)
    whole, along, probe = (
        torch.randn(sum(sizes), *shape, generator=generator, dtype=F64).to(here()) * s + m
        for s, m in ((2.0, 1.0), (1.0, 0.0), (1.0, 0.0))
    )
    mine = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    oracle, synced = seeded(1, make), sync_batch_norm(seeded(1, make))
    for copy in (oracle, synced):
        copy.load_state_dict(layer.state_dict())

    def derivatives(x: Tensor, apply: Any, a: Tensor, b: Tensor) -> list[Tensor]:
        x = x.clone().requires_grad_()
        at, out = x, [apply(x).detach()]
        y = apply(x)
        for k in range(order):
            value = (torch.sin(y) * (a if k % 2 else b)).sum()
            (y,) = torch.autograd.grad(value, at, create_graph=True)
            out.append(y.detach())
        return out

    expected = derivatives(whole, lambda x: written_out(oracle, x), along, probe)
    with together(Together(sums)):
        found = derivatives(whole[mine], synced, along[mine], probe[mine])
    exact(found, [t[mine] for t in expected], LAW, what=name)
    plain = seeded(1, make)
    plain.load_state_dict(layer.state_dict())
    for _ in range(2):
        plain(whole)
    exact([*synced.buffers()], [*plain.buffers()], LAW, what=f"statistics of {name}")
    exact(found[0], plain_values(plain, whole)[mine], LAW, what=f"values of {name}")
    traffic = sums.ranks.traffic.collectives
    assert dict(traffic) == {"batch norm": 2 + backwards(order)}


def backwards(order: int) -> int:
    """Backward passes through one layer: the k-th goes through what those before have left."""
    return 2**order - 1


def plain_values(layer: nn.Module, x: Tensor) -> Tensor:
    kept = {k: v.clone() for k, v in layer.state_dict().items()}
    value = layer(x)
    layer.load_state_dict(kept)
    return value.detach()


def written_out(layer: Any, x: Tensor) -> Tensor:
    over = (0, *range(2, x.dim()))
    shape = (1, -1, *[1] * (x.dim() - 2))
    mean = x.mean(over, keepdim=True)
    y = (x - mean) / ((x - mean).square().mean(over, keepdim=True) + 1e-5).sqrt()
    if getattr(layer, "weight", None) is not None:
        y = y * layer.weight.view(shape) + layer.bias.view(shape)
    return y


def disturb(layer: nn.Module) -> None:
    """Parameters and statistics as they are after some steps."""
    generator = torch.Generator().manual_seed(3)
    for t in [*layer.parameters(), *layer.buffers()]:
        if t.is_floating_point():
            t.data += torch.rand(t.shape, generator=generator, dtype=F64).to(t.device)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1d": (lambda: nn.BatchNorm1d(3), (3,)),
    "1d, of sequences": (lambda: nn.BatchNorm1d(3), (3, 5)),
    "2d": (lambda: nn.BatchNorm2d(2), (2, 3, 3)),
    "3d": (lambda: nn.BatchNorm3d(2), (2, 2, 2, 2)),
    "without gain": (lambda: nn.BatchNorm2d(2, affine=False), (2, 3, 3)),
    "cumulative": (lambda: nn.BatchNorm2d(2, momentum=None), (2, 3, 3)),
    "untracked": (lambda: nn.BatchNorm2d(2, track_running_stats=False), (2, 3, 3)),
    "of a supernet": (lambda: Normalisation(2), (2, 3, 3)),
}


def ranks() -> tuple[Sums, int]:
    here = found(None)
    assert here is not None
    return Sums(here), here.rank


def evaluation_mode_asks_nobody() -> None:
    """It is the plain layer to the bit, and so is one that has statistics to go by."""
    sums, rank = ranks()
    layer, plain = (seeded(1, lambda: nn.BatchNorm1d(3)) for _ in range(2))
    sync_batch_norm(layer).eval()
    x = torch.randn(4 + rank, 3, dtype=F64).to(here())
    with together(Together(sums)):
        assert torch.equal(layer(x), plain.eval()(x))
    assert not sums.ranks.traffic.collectives


def one_rank_alone_asks_nobody() -> None:
    """A user's own validation on the first rank, between steps of all, in training mode."""
    engine = Engine(made(own=slice_of, layer=_synced))
    engine.step()
    if dist.get_rank() == 0:
        module = engine.graph.variables[0].value
        module(torch.randn(5, 3, dtype=F64).to(here()))
    dist.barrier()


def far_from_zero() -> tuple[Tensor, Tensor]:
    """In float32, values about 3000 with a deviation of 1: what is found, and what is true."""
    sums, rank = ranks()
    x = torch.randn(64, 4, 3, 3, generator=torch.Generator().manual_seed(4)).to(here()) + 3000
    with together(Together(sums)):
        y = sync_batch_norm(nn.BatchNorm2d(4)).to(here())(x.chunk(sums.ranks.size)[rank])
    true = nn.BatchNorm2d(4).to(x.device).double()(x.double()).chunk(sums.ranks.size)[rank]
    return y.detach().cpu(), true.detach().cpu()


def narrow(kind: str) -> list[Any]:
    """In a low precision: the format, what is found, and what is true."""
    dtype = torch.float16 if kind == "float16" else torch.bfloat16
    sums, rank = ranks()
    x = 0.01 * torch.randn(8, 2, 3, 3, generator=torch.Generator().manual_seed(5)).to(here())
    layer, true = (nn.BatchNorm2d(2).to(here()) for _ in range(2))
    layer, true = sync_batch_norm(layer), true.double()
    network = (
        sync_batch_norm(nn.BatchNorm2d(2)).to(here(), dtype) if kind.endswith("network") else layer
    )
    own = x.to(dtype).chunk(sums.ranks.size)[rank].requires_grad_()
    with together(Together(sums)), torch.autocast(here().type, torch.bfloat16, "autocast" in kind):
        y = network(own)
        (slope,) = torch.autograd.grad(y.float().pow(3).sum(), own, create_graph=True)
        (second,) = torch.autograd.grad((slope.float() * 1e-3).square().sum(), own)
    whole = x.to(dtype).double().requires_grad_()
    z = true(whole)
    (first,) = torch.autograd.grad(z.pow(3).sum(), whole, create_graph=True)
    (again,) = torch.autograd.grad((first * 1e-3).square().sum(), whole)
    expected = [t.detach().chunk(sums.ranks.size)[rank].cpu() for t in (z, first, again)]
    return [y.dtype == dtype, [t.detach().double().cpu() for t in (y, slope, second)], expected]


# Engines.


def _synced(size: int) -> nn.Module:
    return sync_batch_norm(nn.BatchNorm1d(size))


def made(own: Any, layer: Any, whole: Any = None, outside: Any = None) -> list[Any]:
    """A bilevel graph; its lower problem may have a module that is no part of a variable."""
    W, A = mlopt.Variable(net(71, layer), "w"), mlopt.Variable(weights(72), "a")
    low, high = (mlopt.Stream(batches(k, own)) for k in (73, 74))

    @mlopt.problem(
        over=W, given=[A], data=low, optimizer=steps(W), hypergrad=mlopt.OneStep(), split=whole
    )
    def lower(w, a, batch):
        x, y = batch
        x = x if outside is None else outside(x)
        return cross_entropy(w(x * a.exp()), y) + penalty(w)

    @mlopt.problem(over=A, given=[W], data=high, optimizer=steps(A), split=whole)
    def upper(a, w, batch):
        x, y = batch
        return cross_entropy(w(x * a.exp()), y)

    return [lower, upper]


def whole_batches_ask_nobody() -> None:
    """Problems that take their batches whole are computed by each rank, with plain layers."""
    engine = Engine(made(slice_of, _synced, whole=False))
    alone = Engine(made(lambda b: b, nn.BatchNorm1d), ranks=False)
    found = numbers(engine)
    assert engine._ranks is not None
    assert "batch norm" not in engine._ranks.traffic.collectives
    exact(found, numbers(alone), LAW)


def without_ranks_to_the_bit() -> bool:
    """An engine that knows of no ranks computes with such layers what it does with others."""
    one, other = (Engine(made(lambda b: b, k), ranks=False) for k in (_synced, nn.BatchNorm1d))
    return all(map(_same, numbers(one), numbers(other)))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return all(torch.equal(a[k], b[k]) for k in b)
    return torch.equal(a, b)


def collectives(layer: str, order: str) -> tuple[int, int]:
    """Of one step's batch norms: how many, and bytes."""
    kind = {"synced": _synced, "plain": nn.BatchNorm1d}[layer]
    nodes = made(slice_of, kind)
    nodes[0].hypergrad = {"first": mlopt.Frozen(), "exact": mlopt.OneStep()}[order]
    engine = Engine(nodes)
    engine.step()
    assert engine._ranks is not None
    traffic = engine._ranks.traffic
    before = traffic.collectives["batch norm"], traffic.bytes["batch norm"]
    engine.step()
    after = traffic.collectives["batch norm"], traffic.bytes["batch norm"]
    return after[0] - before[0], after[1] - before[1]


def no_samples_for_one() -> list[str]:
    """Of the second batch one rank has nothing: what both say of the second step."""

    def own(batch: Any) -> Any:
        full.append(len(full) % 2 == 0)  # batches are made one after another, two of each loader
        if full[-1]:
            return slice_of(batch)
        return tuple(t[:1] for t in batch) if dist.get_rank() == 0 else EmptySlice()

    full: list[bool] = []
    engine = Engine(made(own, _synced))
    engine.step()
    before = _vector(engine.graph.variables[0].value)
    try:
        engine.step()
    except DataError as error:
        same = torch.equal(before, _vector(engine.graph.variables[0].value))
        return [str(error), "nothing has changed" if same else "something has changed"]
    return ["nothing was raised"]
