"""Graphs over batches, of which a rank reads its own rows: LFM-CW, SGL, nested, a game, a stack.

Each is a function (method, own, layer) -> nodes, where `own` gives the rows of a batch that are
read, and `layer` a layer that the networks have inside (the identity, BatchNorm, dropout).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from distributed.here import seeded
from small import F64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot, softplus

import mlopt

SAMPLES = 12
Own = Callable[[Any], Any]
Layer = Callable[[int], nn.Module]


def batches(seed: int, own: Own, samples: int = SAMPLES, count: int = 2) -> list[Any]:
    """Batches (x, y), of which this rank's rows are read."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % 3
    return [
        own((torch.randn(samples, 3, generator=generator, dtype=F64), labels.roll(k)))
        for k in range(count)
    ]


def net(seed: int, layer: Layer, inputs: int = 3, outputs: int = 3) -> nn.Module:
    """A smooth network with a layer of the test's."""
    return seeded(
        seed,
        lambda: nn.Sequential(nn.Linear(inputs, 4), layer(4), nn.Tanh(), nn.Linear(4, outputs)),
    )


def weights(seed: int, size: int = 3) -> nn.Parameter:
    return nn.Parameter(seeded(seed, lambda: 0.3 * torch.randn(size, dtype=F64)))


def steps(variable: Any, lr: float = 0.1, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(variable.parameters(), lr=lr, **options)


def penalty(module: nn.Module) -> Tensor:
    """What gives every lower level a curvature."""
    return 2 * torch.stack([(p**2).sum() for p in module.parameters()]).sum()


class Conditional(nn.Module):
    """A generator of rows for classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 3)

    def forward(self, y: Tensor) -> Tensor:
        return torch.tanh(self.body(one_hot(y, 3).to(F64)))


def lfm_cw(method: Any, own: Own, layer: Layer) -> list[Any]:
    W1, W2 = (mlopt.Variable(net(k, layer), f"w{k}") for k in (1, 2))
    G = mlopt.Variable(seeded(3, Conditional), "g")
    H = mlopt.Variable(net(4, layer, outputs=1), "h")
    A = mlopt.Variable(weights(5), "a")
    train, valid = (mlopt.Stream(batches(k, own)) for k in (6, 7))

    @mlopt.problem(over=W1, given=[A], data=train, optimizer=steps(W1), hypergrad=method)
    def stage1(w1, a, batch):
        x, y = batch
        return cross_entropy(mlopt.outputs(w1(x * a.exp())), y) + penalty(w1)

    @mlopt.problem(over=H, given=[G, A], data=train, optimizer=steps(H), hypergrad=mlopt.Frozen())
    def discriminator(h, g, a, batch):
        x, y = batch
        return softplus(-h(x * a)).mean() + softplus(h(g(y))).mean(), {"real": h(x).mean()}

    @mlopt.problem(over=G, given=[H, A], data=train, optimizer=steps(G), hypergrad=method)
    def generator(g, h, a, batch):
        _, y = batch
        return softplus(-h(mlopt.outputs(g(y)) * a.exp())).mean() + penalty(g)

    @mlopt.signal(given=[W1, A], data=valid, combine="sum")
    def sums(w1, a, batch):
        x, y = batch
        member = one_hot(y, 3).to(F64)
        losses = cross_entropy(w1(x * a.exp()), y, reduction="none")
        return (losses[:, None] * member).sum(0), member.sum(0)

    @mlopt.signal(given=[sums])
    def class_losses(sums):
        return sums[0] / sums[1]

    @mlopt.signal(given=[G], data=train)
    def synthetic(g, batch):
        _, y = batch
        return g(y)

    @mlopt.problem(
        over=W2,
        given=[A, class_losses, synthetic],
        data=train,
        optimizer=steps(W2, momentum=0.9),
        hypergrad=method,
        clip=None if getattr(method, "traced", False) else 0.5,
    )
    def stage2(w2, a, class_losses, synthetic, batch):
        x, y = batch
        mistakes = cross_entropy(w2(synthetic * a.exp()), y, reduction="none")
        fit = cross_entropy(mlopt.outputs(w2(x * a.exp())), y)
        return fit + (class_losses[y] * mistakes).mean() + penalty(w2)

    @mlopt.problem(over=A, given=[W2], data=valid, optimizer=torch.optim.Adam(A.parameters()))
    def stage3(a, w2, batch):
        x, y = batch
        return cross_entropy(w2(x * a.exp()), y)

    return [stage1, discriminator, generator, sums, class_losses, synthetic, stage2, stage3]


def sgl(method: Any, own: Own, layer: Layer, stacked: bool = False) -> list[Any]:
    group = range(3)
    V = [mlopt.Variable(net(10 + k, layer), f"v{k}") for k in group]
    W = [mlopt.Variable(net(20 + k, layer), f"w{k}") for k in group]
    A = [mlopt.Variable(weights(30 + k), f"a{k}") for k in group]
    train, valid, unlabelled = (mlopt.Stream(batches(k, own)) for k in (40, 41, 42))

    def learner(k: int) -> Any:
        @mlopt.problem(
            over=V[k], given=[A[k]], data=train, optimizer=steps(V[k]), hypergrad=method,
            name=f"first{k}",
        )  # fmt: skip
        def first(v, a, batch):
            x, y = batch
            return cross_entropy(mlopt.outputs(v(x * a.exp())), y) + penalty(v)

        return first

    def labels(k: int) -> Any:
        @mlopt.signal(given=[V[k], A[k]], data=unlabelled, name=f"labels{k}")
        def pseudo_labels(v, a, batch):
            x, _ = batch
            return v(x * a.exp()).softmax(1)

        return pseudo_labels

    first, taught = [learner(k) for k in group], [labels(k) for k in group]

    def taught_by(k: int) -> Any:
        @mlopt.problem(
            over=W[k],
            given=[A[k], [taught[j] for j in group if j != k]],
            data=(train, unlabelled),
            optimizer=steps(W[k]),
            hypergrad=method,
            name=f"second{k}",
        )
        def second(w, a, teachers, batch):
            (x, y), (u, _) = batch
            guess = w(u * a.exp()).log_softmax(1)
            lessons = -(sum(teachers) * guess).sum(1).mean()
            return cross_entropy(mlopt.outputs(w(x * a.exp())), y) + lessons + penalty(w)

        return second

    second = [taught_by(k) for k in group]

    adam = torch.optim.Adam([p for a in A for p in a.parameters()])

    @mlopt.problem(over=A, given=[W], data=valid, optimizer=adam)
    def last(a, w, batch):
        x, y = batch
        return sum(cross_entropy(w[k](x * a[k].exp()), y) for k in group)

    if stacked:
        return [mlopt.Stack(first), mlopt.Stack(taught), mlopt.Stack(second), last]
    return [*first, *taught, *second, last]


def nested(method: Any, own: Own, layer: Layer) -> list[Any]:
    W = mlopt.Variable(net(51, layer), "w")
    M = mlopt.Variable(net(52, layer), "m")
    A = mlopt.Variable(weights(53), "a")
    low, middle, high = (mlopt.Stream(batches(k, own)) for k in (54, 55, 56))

    @mlopt.problem(over=W, given=[M, A], data=low, optimizer=steps(W), hypergrad=method)
    def bottom(w, m, a, batch):
        x, y = batch
        return cross_entropy(w(x * a.exp()) + m(x), y) + penalty(w)

    @mlopt.problem(over=M, given=[W, A], data=middle, optimizer=steps(M), hypergrad=method)
    def between(m, w, a, batch):
        x, y = batch
        return cross_entropy(w(x) * a.exp() + m(x), y) + penalty(m)

    @mlopt.problem(over=A, given=[M, W], data=high, optimizer=steps(A))
    def top(a, m, w, batch):
        x, y = batch
        return cross_entropy(w(x * a.exp()) + m(x), y)

    return [bottom, between, top]


def game(method: Any, own: Own, layer: Layer) -> list[Any]:
    P, Q = (mlopt.Variable(net(60 + k, layer), "pq"[k]) for k in (0, 1))
    A = mlopt.Variable(weights(62), "a")
    one, other, high = (mlopt.Stream(batches(k, own)) for k in (63, 64, 65))

    @mlopt.problem(over=P, given=[Q, A], data=one, optimizer=steps(P), hypergrad=method)
    def first(p, q, a, batch):
        x, y = batch
        return cross_entropy(p(x * a.exp()) - 0.5 * q(x), y) + penalty(p)

    @mlopt.problem(over=Q, given=[P, A], data=other, optimizer=steps(Q), hypergrad=method)
    def second(q, p, a, batch):
        x, y = batch
        return cross_entropy(q(x * a.exp()) - 0.5 * p(x), y) + penalty(q)

    @mlopt.problem(over=A, given=[P, Q], data=high, optimizer=steps(A))
    def top(a, p, q, batch):
        x, y = batch
        return cross_entropy(p(x * a.exp()) + q(x), y)

    return [mlopt.Game([first, second]), top]


def played(play: Any, own: Own, layer: Layer) -> list[Any]:
    """A game whose play takes the steps and differentiates through them."""
    [players, top] = game(None, own, layer)
    first, second = players.players
    plays = {
        "joint": lambda: mlopt.games.Joint(2),
        "alternating": lambda: mlopt.games.Alternating((first, 1), (second, 2)),
    }
    return [mlopt.Game([first, second], plays[play]()), top]


def stack(method: Any, own: Own, layer: Layer) -> list[Any]:
    return sgl(method, own, layer, stacked=True)


GRAPHS: dict[str, Any] = {
    "lfm-cw": lfm_cw, "sgl": sgl, "nested": nested, "game": game, "stack": stack, "played": played,
}  # fmt: skip
METHODS: dict[str, Any] = {
    "frozen": mlopt.Frozen(),
    "exact": mlopt.OneStep(),
    "central": mlopt.OneStep(product=mlopt.Central()),
    "one-sided": mlopt.OneStep(product=mlopt.OneSided()),
    "sama": mlopt.Sama(),
    "stop": mlopt.StopGradient(mlopt.OneStep()),
    "implicit": mlopt.Implicit(mlopt.GMRES(max_steps=4)),
    "implicit, central": mlopt.Implicit(mlopt.GMRES(max_steps=2), mlopt.Central()),
    "neumann": mlopt.Implicit(mlopt.Neumann(1, scale=0.02)),
    "neumann, by its own scale": mlopt.Implicit(mlopt.Neumann(1)),
    "nystrom": mlopt.Implicit(mlopt.Nystrom(3)),
    "gauss-newton": mlopt.Implicit(mlopt.CG(max_steps=3), curvature=mlopt.GaussNewton()),
    "gauss-newton, central": mlopt.Implicit(
        mlopt.CG(max_steps=3), mlopt.Central(), curvature=mlopt.GaussNewton()
    ),
    "unrolled": mlopt.Unrolled(2),
    "truncated": mlopt.Unrolled(3, truncate=2),
    "recomputed": mlopt.Unrolled(2, recompute=True),
    "zeroth order": mlopt.ZerothOrder(samples=2),
    "joint": "joint",
    "alternating": "alternating",
}
#: What the library refuses on one rank, too, what diverges there, or what takes long.
REFUSED: dict[str, set[str]] = {
    "nested": {
        "nystrom", "gauss-newton", "gauss-newton, central", "neumann, by its own scale",
    },
    "sgl": {"neumann, by its own scale"},
    "stack": {"neumann, by its own scale"},
    "game": {
        "nystrom", "gauss-newton", "gauss-newton, central", "unrolled", "truncated", "recomputed",
    },
}  # fmt: skip
CASES = [
    (graph, method)
    for graph in GRAPHS
    for method, value in METHODS.items()
    if isinstance(value, str) is (graph == "played") and method not in REFUSED.get(graph, ())
]
LAYERS: dict[str, Layer] = {
    "plain": lambda _: nn.Identity(),
    "batch norm": lambda n: nn.BatchNorm1d(n),
    "dropout": lambda _: nn.Dropout(0.3),
}
