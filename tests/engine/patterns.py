"""Patterns of models, under every kind of hypergradient, against a plain program.

Two levels: the lower one weighs its samples by r, the upper one chooses r on other data. A pattern
says how the network is built and called, and what is to be expected of it. The oracle writes the
same levels as one differentiable program on torch's own `functional_call`, and the lower level once
more as a plain training loop.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from compare import rounding
from oracles import drawing
from small import F64
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

import mlopt

SAMPLES = 4
LR, MOMENTUM, DECAY, EPS = 0.1, 0.9, 0.01, 0.1
TERMS, SCALE, DAMPING = 2, 0.05, 4.0
RADIUS = 1e-4

Values = dict[str, Tensor]


@dataclass(frozen=True)
class Kind:
    """A method: what it is, and what the look-ahead of the oracle is."""

    method: mlopt.AbstractHypergradient
    ahead: str
    differences: bool = False

    @property
    def twice(self) -> bool:
        """Whether it differentiates the objective twice."""
        return not self.differences


def _implicit(product: mlopt.AbstractProduct) -> mlopt.Implicit:
    return mlopt.Implicit(mlopt.Neumann(TERMS, SCALE), product, damping=DAMPING)


_CENTRAL = mlopt.Central(RADIUS)
KINDS = {
    "one_step": Kind(mlopt.OneStep(), "step"),
    "one_step_central": Kind(mlopt.OneStep(product=_CENTRAL), "step", differences=True),
    "unrolled": Kind(mlopt.Unrolled(2), "steps"),
    "implicit": Kind(_implicit(mlopt.Exact()), "optimum"),
    "implicit_central": Kind(_implicit(_CENTRAL), "optimum", differences=True),
    "sama": Kind(mlopt.Sama(mlopt.Exact()), "adam"),
    "sama_central": Kind(mlopt.Sama(_CENTRAL), "adam", differences=True),
}


def rows(k: int, features: int = 3, dtype: torch.dtype = F64) -> Tensor:
    """The k-th batch of plain features."""
    g = torch.Generator().manual_seed(10 + k)
    return torch.randn(SAMPLES, features, dtype=F64, generator=g).to(dtype)


def sequences(k: int) -> Tensor:
    """Sequences, of another length in each batch: samples, time, features."""
    return rows(k, 3 * (4 - k % 2)).view(SAMPLES, -1, 3)


def images(k: int) -> Tensor:
    return rows(k, 2 * 4 * 4).view(SAMPLES, 2, 4, 4)


def tokens(k: int) -> Tensor:
    """Numbers of words, with repeats, and one that is never there."""
    g = torch.Generator().manual_seed(20 + k)
    return torch.randint(0, 5, (SAMPLES, 3), generator=g)


def call(w: Any, x: Any) -> Tensor:
    return w(x)


@dataclass(frozen=True)
class Pattern:
    """A row of the table.

    Attributes:
        make: builds the network; it is cast to float64, but for what `cast` says.
        inputs: (k) -> the k-th batch.
        out: (network, batch) -> outputs, samples first.
        plain: builds the same network for the oracle, where `functional_call` cannot serve it.
        plain_out: likewise.
        cast: of the network, instead of to float64.
        said: what the one warning says of second derivatives that are taken in another way.
        differences: what the one warning says of differences, which are then far off.
        second: why there are no second derivatives: products become differences.
        refused: what the error of every method says.
        foreign: it draws from the generators of Python and NumPy.
        adam: whether it can be trained by Adam; sparse gradients cannot.
        decay: of the weights under SGD.
        dtype: the coarsest in which it computes.
        constants: what autograd takes as constant, and moves with the weights: the error of
            differences that comes of it.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[int], Any] = rows
    out: Callable[[Any, Any], Tensor] = call
    plain: Callable[[], nn.Module] | None = None
    plain_out: Callable[[Any, Any], Tensor] | None = None
    cast: Callable[[nn.Module], nn.Module] = nn.Module.double
    said: str = ""
    differences: str = ""
    second: str = ""
    refused: str = ""
    foreign: bool = False
    adam: bool = True
    decay: float = DECAY
    dtype: torch.dtype = F64
    constants: float = 0.0

    def built(self, plain: bool = False) -> nn.Module:
        """The network, of the same numbers each time."""
        make = self.plain if plain and self.plain is not None else self.make
        with drawing(3):
            return self.cast(make())

    @property
    def oracle(self) -> Pattern:
        """As the oracle calls it."""
        return replace(self, make=self.plain or self.make, out=self.plain_out or self.out)

    @property
    def bound(self) -> float:
        """Some two hundred roundings, forth and back and twice."""
        return rounding(200 if self.dtype is F64 else 8, 10, self.dtype)


def errors(out: Tensor, shift: float) -> Tensor:
    """The error of each sample, against a target of any shape."""
    flat = out.flatten(1)
    target = torch.linspace(-1.0, 1.0, flat.numel(), dtype=flat.dtype).view_as(flat)
    return ((flat - (target + shift).sin()) ** 2).mean(1)


def objective(pattern: Pattern, w: Any, r: Tensor, x: Any) -> Tensor:
    """The lower one: samples by weight."""
    weighted = r.sigmoid() * errors(pattern.out(w, x), 0.0).to(r.dtype)
    return weighted.mean()


def judged(pattern: Pattern, w: Any, x: Any) -> Tensor:
    """The upper one."""
    return errors(pattern.out(w, x), 1.0).mean()


def logits() -> nn.Parameter:
    return nn.Parameter(torch.linspace(-0.5, 1.0, SAMPLES, dtype=F64))


def optimizer(pattern: Pattern, kind: Kind, parameters: Any) -> torch.optim.Optimizer:
    """Adam with a large eps, whose first step has a derivative, or SGD with all that it has."""
    if kind.ahead == "adam" and pattern.adam:
        return torch.optim.Adam(parameters, lr=LR, eps=EPS)
    return torch.optim.SGD(parameters, lr=LR, momentum=MOMENTUM, weight_decay=pattern.decay)


class Levels:
    """The two levels, by mlopt."""

    def __init__(self, pattern: Pattern, kind: Kind) -> None:
        self.net, self.r = pattern.built(), logits()
        W, self.R = mlopt.Variable(self.net, "w"), mlopt.Variable(self.r, "r")
        train = [pattern.inputs(k) for k in range(2)]
        self.low = mlopt.problem(
            over=W, given=[self.R], data=train, hypergrad=kind.method, name="low",
            optimizer=optimizer(pattern, kind, self.net.parameters()),
        )(lambda w, r, batch: objective(pattern, w, r, batch))  # fmt: skip
        self.up = mlopt.problem(
            over=self.R, given=[W], data=[pattern.inputs(2)],
            optimizer=torch.optim.SGD([self.r], lr=1.0), name="up",
        )(lambda r, w, batch: judged(pattern, w, batch))  # fmt: skip
        self.engine = mlopt.Engine([self.low, self.up])
        seed = self.engine.seed_of
        self.seeds = [seed(self.low, 0), seed(self.low, 1), seed(self.up)]

    def hypergradient(self) -> Tensor:
        return self.engine.hypergradient(self.up)[self.R][""]

    def gradient(self) -> Values:
        (found,) = self.engine.hypergradient(self.low).values()
        return {k: g.to_dense() if g.is_sparse else g for k, g in found.items()}


class _Called(nn.Module):
    """A network and how it is called, as `functional_call` needs it."""

    def __init__(self, pattern: Pattern) -> None:
        super().__init__()
        self.net, self.of = pattern.built(), pattern
        self.left: Values = {}

    def forward(self, loss: Callable[..., Tensor], *arguments: Any) -> Tensor:
        value = loss(self.of, self.net, *arguments)
        self.left = {k: b.detach() for k, b in self.named_buffers()}
        return value


class Program:
    """The two levels as one program that autograd differentiates."""

    def __init__(self, pattern: Pattern, seeds: list[int]) -> None:
        self.pattern, self.seeds = pattern.oracle, seeds
        self.model = _Called(self.pattern)
        named = self.model.named_parameters()
        self.w = {k: p.detach().clone().requires_grad_() for k, p in named if p.requires_grad}
        self.r = logits()

    def gradient(self) -> Values:
        """That of the lower objective, by name in the network."""
        found = self._gradient(self.w, self._buffers(), 0)
        return {k.removeprefix("net."): g.detach() for k, g in found.items()}

    def hypergradient(self, ahead: str) -> Tensor:
        """The derivative by r of the upper objective at the lower level's solution."""
        buffers = self._buffers()
        g = self._gradient(self.w, buffers, 0)
        if ahead == "optimum":
            return self._through_optimum(g)
        if ahead == "steps":
            w = self._steps()
        elif ahead == "adam" and self.pattern.adam:
            w = {k: w - LR * _adapted(g[k]) if k in g else w for k, w in self.w.items()}
        else:
            d = {k: t + self.pattern.decay * self.w[k] for k, t in g.items()}
            w = {k: w - LR * d[k] if k in d else w for k, w in self.w.items()}
        (found,) = torch.autograd.grad(self._loss(w, self._buffers(), 2), self.r)
        return found

    def _buffers(self) -> Values:
        return {k: b.clone() for k, b in self.model.named_buffers()}

    def _loss(self, w: Values, buffers: Values, k: int, *more: Tensor) -> Tensor:
        loss = judged if k == 2 else objective
        with _drawing(self.seeds[k], self.pattern.foreign), _twice():
            arguments = (loss, *more, self.pattern.inputs(k))
            value = functional_call(self.model, {**w, **buffers}, arguments)
        buffers.update(self.model.left)
        return value

    def _gradient(self, w: Values, buffers: Values, k: int) -> Values:
        loss = self._loss(w, buffers, k, self.r)
        return _by(loss, w, create_graph=True)

    def _steps(self) -> Values:
        w, buffers, momentum = dict(self.w), self._buffers(), {}
        for k in range(2):
            for name, g in self._gradient(w, buffers, k).items():
                d = g + self.pattern.decay * w[name]
                momentum[name] = MOMENTUM * momentum[name] + d if name in momentum else d
                w[name] = w[name] - LR * momentum[name]
        return w

    def _through_optimum(self, g: Values) -> Tensor:
        """-d/dr <dF/dw, q>, with q from the truncated series of (H + damping I) q = c."""
        c = _by(self._loss(self.w, self._buffers(), 2), self.w)
        term = {k: c.get(k, torch.zeros_like(w)) for k, w in self.w.items() if k in g}
        q = dict(term)
        for _ in range(TERMS):
            curved = _by(list(g.values()), self.w, list(term.values()), retain_graph=True)
            term = {k: t - SCALE * (curved.get(k, 0.0) + DAMPING * t) for k, t in term.items()}
            q = {k: t + term[k] for k, t in q.items()}
        found = torch.autograd.grad(list(g.values()), self.r, [SCALE * t for t in q.values()])
        return -found[0]


def trained(pattern: Pattern, kind: Kind, seeds: list[int]) -> nn.Module:
    """The network after a plain loop of what the lower level does in a step."""
    net, r = pattern.built(), logits().detach()
    step = optimizer(pattern, kind, net.parameters())
    for k in range(2 if kind.ahead == "steps" else 1):
        step.zero_grad()
        with _drawing(seeds[k], pattern.foreign):
            loss = objective(pattern, net, r, pattern.inputs(k))
        loss.backward()
        step.step()
    return net


def state(net: nn.Module) -> Values:
    """All tensors of a network, of buffers those that are not saved, too."""
    return {k: t.detach() for k, t in (*net.named_parameters(), *net.named_buffers())}


def _by(outputs: Any, w: Values, *more: Any, **options: Any) -> Values:
    found = torch.autograd.grad(outputs, list(w.values()), *more, allow_unused=True, **options)
    return {k: g for k, g in zip(w, found, strict=True) if g is not None}


def _adapted(g: Tensor) -> Tensor:
    """What Adam makes of its first gradient: of the parts of a complex number by themselves."""
    if g.is_complex():
        return torch.view_as_complex(_adapted(torch.view_as_real(g)))
    return g / (g.abs() + EPS)


@contextmanager
def _drawing(seed: int, foreign: bool) -> Iterator[None]:
    with drawing(seed):
        if not foreign:
            yield
            return
        python, numpy = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def _twice() -> Iterator[None]:
    """Attention and compiled modules in the form that has second derivatives."""
    compiles = "torch._dynamo" in sys.modules
    eager = torch.compiler.set_stance("force_eager") if compiles else nullcontext()
    with eager, sdpa_kernel(SDPBackend.MATH):
        yield
