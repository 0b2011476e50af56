"""Random lists of nested problems, small enough for an oracle that differentiates five levels.

Every objective has a quadratic part of its own that outweighs its couplings, so that it is convex
in its own variable also as a total objective; how well is for `nested_oracle.settle` to find out.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from case_graphs import tensor
from cases import warmed
from nested_oracle import Fixed, Stopped
from torch import Tensor, nn

import mlopt

__all__ = ["Facts", "draw_nested"]

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Facts:
    """What was drawn.

    Attributes:
        levels: how many.
        problems: how many.
        depth: the number of problems, one above the other, of which each anticipates the next one,
            which responds to it, and that the top reads: 1 for two ordinary levels.
        third_derivatives: whether objectives and signals are more than quadratic and linear.
        signals: how many.
        signals_across: how many read the variable of a problem that stands above them in the list.
        stops: how many reads are stopped.
        bottom_reads_top: whether the lowest problem itself reads the top variable.
    """

    levels: int
    problems: int
    depth: int
    third_derivatives: bool
    signals: int
    signals_across: int
    stops: int
    bottom_reads_top: bool

    @property
    def nested(self) -> bool:
        """Whether a middle problem anticipates a lower one, and the top anticipates the middle."""
        return self.depth > 1


def draw_nested(
    seed: int,
    kind_of: Callable[[random.Random], Any],
    device: torch.device = CPU,
    *,
    method_of: Callable[[Any], Any] | None = None,
    levels: int | None = None,
) -> tuple[list[Any], dict[Any, Any], Facts]:
    """A list of problems and signals, lowest first; the kind of each problem but the last; facts.

    Standing values are random; `nested_oracle.settle` moves those of `Optimum` problems to where
    they are optimal.

    Args:
        seed: the same seed draws the same list, whatever the kinds.
        kind_of: draws the kind of a problem, with a generator of its own.
        device: where the parameters lie.
        method_of: the engine's method for a kind, put into the declaration.
        levels: how many; by default 2 to 5.
    """
    drawing = _Drawing(seed, kind_of, device, method_of, levels)
    return drawing.nodes, drawing.kinds, drawing.facts()


class _Drawing:
    def __init__(
        self, seed: int, kind_of: Any, device: torch.device, method_of: Any, levels: int | None
    ) -> None:
        self.rng, self.device, self.tensors = random.Random(f"graph {seed}"), device, 1000 * seed
        self.kind_of, self.method_of = kind_of, method_of
        self.kind_rng = random.Random(f"kinds {seed}")
        rng = self.rng
        self.levels = levels or rng.choices([2, 3, 4, 5], [2, 5, 3, 1])[0]
        self.third = rng.random() < 0.5
        self.upward = rng.choice([0.3, 0.8, 0.8])  # how often a node reads a middle one above it
        self.stops = rng.choice([0.0, 0.0, 0.15])
        # Where a read is stopped, a standing value and what it stands for may pull apart.
        self.scale = 0.9 if self.stops else 1.7
        self.sizes = {2: [1, 2, 3], 3: [1, 2, 3], 4: [1, 2], 5: [1, 1, 1, 2]}[self.levels]
        double = rng.randrange(self.levels) if self.levels <= 3 and rng.random() < 0.3 else None
        self.over: list[list[Any]] = []
        for level in range(self.levels):
            for _ in range(2 if level == double else 1):
                self.over.append(self._variables())
        self.nodes: list[Any] = []
        self.signals: list[Any] = []
        self.kinds: dict[Any, Any] = {}
        for i, over in enumerate(self.over):
            if rng.random() < 0.35:
                self._signal(i)
            self._problem(i, over)

    def _seed(self) -> int:
        self.tensors += 1
        return self.tensors

    def _variables(self) -> list[Any]:
        size = self.rng.choice(self.sizes)
        split = [1, size - 1] if size > 1 and self.rng.random() < 0.2 else [size]
        return [
            mlopt.Variable(
                nn.Parameter(tensor(self.device, self._seed(), n, scale=0.7)),
                f"v{len(self.over)}_{i}",
            )
            for i, n in enumerate(split)
        ]

    def _reads(self, i: int) -> list[Any]:
        """What problem i reads, or a signal that stands just below it."""
        rng, last = self.rng, len(self.over) - 1
        chosen: list[Any] = []
        for k, over in enumerate(self.over):
            if k < i:
                often = 0.9 if k == i - 1 else 0.5
            elif k == last:
                often = 0.85
            else:
                often = self.upward
            if k != i and rng.random() < often:
                chosen += over
        chosen += [s for s in self.signals if rng.random() < 0.6]
        return chosen

    def _given(self, chosen: list[Any]) -> list[Any]:
        """What was chosen, in some order, some of it stopped, some of it in lists."""
        rng = self.rng
        rng.shuffle(chosen)
        marked = [mlopt.stop(s) if rng.random() < self.stops else s for s in chosen]
        given: list[Any] = []
        while marked:
            if len(marked) > 1 and rng.random() < 0.2:
                given.append([marked.pop(), marked.pop()])
            else:
                given.append(marked.pop())
        return given

    def _problem(self, i: int, over: list[Any]) -> None:
        size = sum(v.tensor.numel() for v in over)
        chosen = self._reads(i)
        if i > 0 and not any(s in self.signals or s in sum(self.over[:i], []) for s in chosen):
            chosen += self.over[i - 1]  # every higher problem reads something below it
        if i == 0 and not chosen:
            chosen += self.over[-1]
        last = i == len(self.over) - 1
        kind = None if last else self.kind_of(self.kind_rng)
        self.nodes.append(
            mlopt.problem(
                over=over if len(over) > 1 else over[0],
                given=self._given(chosen),
                optimizer=self._optimizer([v.tensor for v in over]),
                hypergrad=None if last or self.method_of is None else self.method_of(kind),
                name=f"p{i}",
            )(self._objective(size))
        )
        if kind is not None:
            self.kinds[self.nodes[-1]] = kind

    def _signal(self, i: int) -> None:
        """A signal of one to three sources; also of the variable of the problem just above it."""
        chosen = self._reads(i) + (self.over[i] if self.rng.random() < 0.3 else [])
        if not chosen:
            return
        self.rng.shuffle(chosen)
        given = self._given(chosen[: self.rng.randint(1, 3)])
        mix, kind, third = self._mixer(2), self.rng.choice(["tensor", "tuple", "dict"]), self.third

        def function(*given):
            z = mix(given)
            z = torch.sin(z) if third else z
            if kind == "tensor":
                return z
            return (z[:1], z[1:]) if kind == "tuple" else {"first": z[:1], "second": z[1:]}

        self.signals.append(mlopt.signal(given=given, name=f"s{i}")(function))
        self.nodes.append(self.signals[-1])

    def _optimizer(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        options: dict[str, Any] = self.rng.choice(
            [
                {"lr": 0.1},
                {"lr": 0.3, "weight_decay": 0.1},
                {"lr": 0.2, "momentum": 0.9, "weight_decay": 0.01},
                {"lr": 0.2, "momentum": 0.8, "dampening": 0.5},
                {"lr": 0.2, "momentum": 0.7, "nesterov": True},
            ]
        )
        past = self.rng.choice([0, 1, 2])
        # without momentum nothing would stay of it
        return warmed(torch.optim.SGD(parameters, **options), past if "momentum" in options else 0)

    def _objective(self, size: int) -> Any:
        """Convex in its own variable w; e and z are where it meets what it reads.

        quadratic:  0.7 |w|^2 + w z(given) + |e(w, given)|^2 / 4
        curved:     with tanh(z) for z, and + cosh(w - b) / 2 + sin(e) tanh(z) / 2
        """
        z_of, e_of, own = self._mixer(size), self._mixer(2, 1.0), self._mixer(2, 1.0)
        shift = tensor(self.device, self._seed(), size)
        third, metrics = self.third, self.rng.random() < 0.3

        def objective(w, *given):
            w = torch.cat(list(w)) if isinstance(w, list) else w
            z, e = z_of(given) + 0.5 * shift, own([w]) + e_of(given)
            value = 0.7 * (w**2).sum() + (e**2).sum() / 4
            if third:
                value = value + torch.cosh(w - shift).sum() / 2 + (torch.tanh(z) * w).sum()
                value = value + (torch.sin(e) * torch.tanh(z).sum()).sum() / 2
            else:
                value = value + (w * z).sum()
            return (value, {"largest": w.max()}) if metrics else value

        return objective

    def _mixer(self, size: int, scale: float | None = None) -> Any:
        """A random linear map of all that a function is given, onto so many numbers."""
        seed, device, scale = self._seed(), self.device, scale or self.scale
        matrices: dict[int, Tensor] = {}

        def mix(arguments: Any) -> Tensor:
            x = torch.cat([features(a) for a in arguments])
            n = x.numel()
            if n not in matrices:
                matrices[n] = tensor(device, seed, size, n, scale=scale / (n * size) ** 0.5)
            return matrices[n] @ x

        return mix

    # What was drawn.

    def facts(self) -> Facts:
        signals = [n for n in self.nodes if isinstance(n, mlopt.Signal)]
        problems = [n for n in self.nodes if isinstance(n, mlopt.Problem)]
        owner = {v: p for p in problems for v in p.over}
        place = {n: i for i, n in enumerate(self.nodes)}
        return Facts(
            levels=self.levels,
            problems=len(problems),
            depth=self._depth(problems, owner),
            third_derivatives=self.third,
            signals=len(signals),
            signals_across=sum(
                any(place[owner.get(r.source, r.source)] > place[s] for r in s.reads)
                for s in signals
            ),
            stops=sum(r.stopped for n in self.nodes for r in n.reads),
            bottom_reads_top=any(r.source in problems[-1].over for r in problems[0].reads),
        )

    def _depth(self, problems: list[Any], owner: Any) -> int:
        read = {p: _read(p, owner) for p in problems}
        depth: dict[Any, int] = {}
        for i, p in enumerate(problems):
            if isinstance(self.kinds.get(p), Fixed | Stopped):
                continue
            below = [q for q in problems[:i] if q in depth and q in read[p] and p in read[q]]
            depth[p] = 1 + max((depth[q] for q in below), default=0)
        top = problems[-1]
        return max((depth[p] for p in read[top] if p in depth and p is not top), default=0)


def _read(node: Any, owner: Any) -> set[Any]:
    """The problems whose variables a node reads, itself or through signals, with gradient."""
    out: set[Any] = set()
    for read in node.reads:
        if not read.stopped:
            source = read.source
            out |= {owner[source]} if source in owner else _read(source, owner)
    return out


def features(argument: Any) -> Tensor:
    """A vector of whatever a function may be given."""
    if isinstance(argument, Tensor):
        return argument
    parts = argument.values() if isinstance(argument, dict) else argument
    return torch.cat([features(a) for a in parts])
