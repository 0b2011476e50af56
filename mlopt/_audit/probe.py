"""A method that is listened to while the engine uses it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from .._engine.engine import Engine
from .._evaluation.point import Evaluator
from .._graph.problem import Problem
from .._tensors import Key, Tensors, continuous, dense, like, real
from ..hypergrad.interface import Response
from .cost import Took, costs

__all__ = ["Probe", "probed"]


class Probe:
    """A method, unchanged, that is asked for one pullback more: of cotangents of the audit's own.

    Only the first response is looked at, which is that at the standing values.

    Args:
        method: the problem's.
        evaluator: counts its evaluations.
        count: number of cotangents.
        seed: of the cotangents.
    """

    def __init__(self, method: Any, evaluator: Evaluator, count: int, seed: int) -> None:
        self.probed = method
        self.cotangents: list[Tensors] = []
        self.found: list[Tensors] = []
        self.keys: list[Key] = []
        self.took = Took()
        self.size = 0
        self._evaluator, self._count, self._seed = evaluator, count, seed
        self._others: dict[Any, Any] = {}
        self.others: dict[Any, list[Tensors]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.probed, name)

    def compare(self, others: dict[Any, Any]) -> None:
        """Ask other methods for the same pullback, by any key."""
        self._others = others

    def pullback(self, response: Response, cotangent: Tensors, wanted: Sequence[Key]) -> Tensors:
        """The method's own, listened to."""
        found = self.probed.pullback(response, cotangent, wanted)
        if not self.keys and wanted:
            self.keys = list(wanted)
            self._draw(response.value)
            with torch.no_grad():
                with costs(self._evaluator) as self.took:
                    for c in self.cotangents:
                        self.found.append(self.probed.pullback(response, c, wanted))
                for key, other in self._others.items():
                    self.others[key] = [
                        other.pullback(response, c, wanted) for c in self.cotangents
                    ]
        return found

    def trace(self, response: Response) -> Any:
        """The method's own steps, gone back through once more."""
        value, state = self.probed.trace(response)
        wanted = [k for k, t in response.arguments.items() if t.requires_grad]
        outputs = [k for k, t in value.items() if t.requires_grad]
        if not self.keys and torch.is_grad_enabled() and wanted and outputs:
            self.keys = wanted
            self._draw({k: t for k, t in value.items() if continuous(t)})
            with costs(self._evaluator) as self.took:
                for c in self.cotangents:
                    grads = torch.autograd.grad(
                        [value[k] for k in outputs], [response.arguments[k] for k in wanted],
                        [c[k] for k in outputs], retain_graph=True, allow_unused=True,
                    )  # fmt: skip
                    pairs = zip(wanted, grads, strict=True)
                    self.found.append(dense({k: g for k, g in pairs if g is not None}))
        return value, state

    def _draw(self, value: Tensors) -> None:
        generator = torch.Generator().manual_seed(self._seed)
        self.size = sum(t.numel() for t in value.values())
        for _ in range(self._count):
            self.cotangents.append(
                {
                    k: like(
                        torch.randn(real(t).shape, generator=generator, dtype=torch.float64), t
                    ).to(t.device)
                    for k, t in value.items()
                }
            )


@contextmanager
def probed(engine: Engine, probes: dict[Problem, Probe]) -> Iterator[None]:
    """Put probes in the place of methods for a block."""
    methods = engine.graph.methods
    before = dict(methods)
    methods.update(probes)  # type: ignore[arg-type]
    try:
        yield
    finally:
        methods.update(before)
