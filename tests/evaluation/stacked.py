"""Learners that label for one another, stacked and one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from compare import agree, rounding
from small import F64, batches, mlp, seeded, state_of
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout, mse_loss

import mlopt

SGD, ADAM = torch.optim.SGD, torch.optim.Adam


class Net(nn.Module):
    """All kinds of layers that learners are made of; one parameter is frozen, one never used."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.last = nn.Linear(12, 3)
        self.tied = self.last.bias
        self.scale = nn.Parameter(torch.rand(3, 1, 1), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        h = torch.tanh(self.norm(self.conv(x)) * self.scale) * a[0].exp() + x * a[1]
        return self.last(nn.functional.avg_pool2d(h, 2).flatten(1)) + 0.1 * self.tied


def images(count: int, seed: int, labelled: bool = True) -> list[Any]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, 1, 4, 4, dtype=F64, generator=g)
    y = torch.randint(3, (count, 6), generator=g)
    return list(zip(x, y, strict=True)) if labelled else list(x)


def optimizer(kind: str, parameters: list[Tensor]) -> Any:
    if kind == "sgd":
        return SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-2)
    # an eps below which gradients are small: at 1e-8 their relative error is that of the update
    return ADAM(parameters, lr=0.02, betas=(0.8, 0.9), eps=0.05)


@dataclass
class Learners:
    """K learners as in SGL: they learn alone, label for each other, learn again, and are judged."""

    first: list[mlopt.Problem]
    labels: list[mlopt.Signal]
    second: list[mlopt.Problem]
    last: mlopt.Problem
    nets: list[Net]
    memories: list[nn.Module]

    def engine(self, stacked: bool, **options: Any) -> mlopt.Engine:
        groups = [self.first, self.labels, self.second]
        if stacked:
            return mlopt.Engine([*map(mlopt.Stack, groups), self.last], **options)
        return mlopt.Engine([n for group in groups for n in group] + [self.last], **options)


class Memory(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3, dtype=F64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))


def learners(
    k: int,
    kind: str = "sgd",
    noise: float = 0.0,
    own_streams: bool = False,
    shared: bool = False,
    start: int = 0,
    **options: Any,
) -> Learners:
    """The graph; with `shared`, all learners have one architecture."""
    group = range(k)
    nets = [seeded(1 + j, Net) for j in range(2 * k)]
    V = [mlopt.Variable(nets[j], f"v{j}") for j in group]
    W = [mlopt.Variable(nets[k + j], f"w{j}") for j in group]
    count = 1 if shared else k
    start_at = torch.linspace(-0.3, 0.4, 2 * count, dtype=F64).view(count, 2)
    A = [mlopt.Variable(nn.Parameter(a.clone()), f"a{j}") for j, a in enumerate(start_at)]
    of = [A[0] if shared else A[j] for j in group]
    streams = [mlopt.Stream(images(4, 10 + (j if own_streams else 0))) for j in group]
    train = streams if own_streams else [streams[0]] * k
    unlabelled, valid = mlopt.Stream(images(3, 20, False)), mlopt.Stream(images(5, 30))
    memories = [Memory() for _ in group]

    def alone(j: int) -> tuple[mlopt.Problem, mlopt.Signal]:
        @mlopt.problem(
            over=V[j], given=[of[j]], data=train[j], optimizer=optimizer(kind, V[j].parameters()),
            clip=0.5, **options,
        )  # fmt: skip
        def first(v, a, batch):
            x, y = batch
            loss = cross_entropy(dropout(v(x, a), noise), y)
            return loss, {"half": loss.detach() / 2, "constant": 7}

        memory = memories[j]

        @mlopt.signal(given=[V[j], of[j]], data=unlabelled, state=memory)
        def labels(v, a, u):
            answers = v(u, a).softmax(-1)
            memory.mean.mul_(0.5).add_(answers.detach().mean(0))
            memory.seen.add_(1)
            return {"labels": answers * memory.mean, "of": answers.detach().argmax(-1)}

        return first, labels

    pairs = [alone(j) for j in group]

    def again(j: int) -> mlopt.Problem:
        @mlopt.problem(
            over=W[j], given=[of[j], [pairs[i][1] for i in group if i != j]],
            data=(train[j], unlabelled), optimizer=optimizer(kind, W[j].parameters()), **options,
        )  # fmt: skip
        def second(w, a, teachers, batch):
            (x, y), u = batch
            answers = w(u, a)
            taught = sum(cross_entropy(answers, t["labels"]) for t in teachers)
            hard = sum(cross_entropy(answers, t["of"]) for t in teachers)
            return cross_entropy(dropout(w(x, a), noise), y) + taught + 0.1 * hard

        return second

    @mlopt.problem(over=A, given=[W], data=valid, optimizer=optimizer(kind, [a.value for a in A]))
    def last(a, w, batch):
        x, y = batch
        mine = [a[0]] * k if shared else a
        return sum(cross_entropy(w[j](x, mine[j]), y) for j in group)

    first, labels = [p for p, _ in pairs], [s for _, s in pairs]
    return Learners(first, labels, [again(j) for j in group], last, nets, memories)


#: At most three steps of networks of 60 operations, with the derivative of a look-ahead.
ROUNDING = rounding(3 * 4 * 60, condition=5)


def close(a: Any, b: Any, bound: float = ROUNDING, why: str = "") -> None:
    """Equal relative to the size of each tensor; what is no floating number, exactly."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            close(a[key], b[key], bound, why)
    elif isinstance(a, list | tuple):
        for x, y in zip(a, b, strict=True):
            close(x, y, bound, why)
    elif isinstance(a, Tensor) and a.is_floating_point():
        agree(a, b, bound, why)
    elif isinstance(a, Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b, (a, b)


def by_name(gradient: dict[mlopt.Variable, Any]) -> dict[str, Any]:
    return {v.name: tensors for v, tensors in gradient.items()}


def run(stacked: bool, make: Callable[[], Learners], steps: int = 2, **options: Any) -> Any:
    """Hypergradients before each step, the metrics, and all that a step changes.

    What a step changes has the gradients of all problems in it; some are asked for on their own.
    """
    made = make()
    engine = made.engine(stacked, **options)
    seen = []
    for _ in range(steps):
        gradients = {
            engine.graph.labels[p]: by_name(engine.hypergradient(p))
            for p in (made.first[-1], made.second[0], made.last)
        }
        metrics = engine.step()
        seen.append((gradients, metrics, engine.signals))
    return seen, state_of(engine, *made.memories), engine


# What cannot be stacked.


def net_problem(j: int, fn: Any = None, **options: Any) -> mlopt.Problem:
    W = mlopt.Variable(options.pop("net", None) or mlp(seed=j), f"w{j}")
    fn = fn or (lambda w, batch: mse_loss(w(batch[0]), batch[1]))
    options.setdefault("data", batches(2, seed=j))
    options.setdefault("optimizer", SGD(W.parameters(), lr=0.1))
    return mlopt.problem(over=W, name=f"p{j}", **options)(fn)
