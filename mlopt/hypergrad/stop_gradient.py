"""`StopGradient`: another method's solution, without its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from .._errors import GraphError
from .._tensors import Key, Tensors
from .interface import AbstractHypergradient, Cost, Response

__all__ = ["StopGradient"]


@dataclass(frozen=True)
class StopGradient(AbstractHypergradient):
    """The solution of another method, as a constant: the tool for looking at one term alone.

        s(r) = s_m(r),    ds/dr taken as 0

    `Frozen` would also change the point at which the others are evaluated; this does not.

    Args:
        method: the method whose solution is read.

    Raises:
        GraphError: the method is not a hypergradient method.
    """

    method: AbstractHypergradient

    def __post_init__(self) -> None:
        if not isinstance(self.method, AbstractHypergradient):
            raise GraphError(
                f"StopGradient({self.method!r}): give a method, e.g. StopGradient(OneStep())."
            )

    @property
    def moves(self) -> bool:
        return self.method.moves

    @property
    def traced(self) -> bool:  # type: ignore[override]
        return self.method.traced

    @property
    def looks_ahead(self) -> bool:  # type: ignore[override]
        return self.method.looks_ahead

    @property
    def learns(self) -> bool:  # type: ignore[override]
        return self.method.learns

    @property
    def same_batch(self) -> bool:
        """Whether all inner steps take the same batch; see `Unrolled`."""
        return getattr(self.method, "same_batch", False)

    @property
    def at_solution(self) -> bool:  # type: ignore[override]
        return self.method.at_solution

    @property
    def reads(self) -> tuple[Any, ...]:  # type: ignore[override]
        return self.method.reads

    @property
    def responds(self) -> bool:
        return False

    @property
    def cost(self) -> Cost:
        # An optimum that follows what is displaced needs the Hessian, even as a constant.
        return replace(self.method.cost, evaluations=0, backwards=0) if self.at_solution else Cost()

    def check(self, name: str, optimizer: Any) -> None:
        self.method.check(name, optimizer)

    def solution(self, response: Response) -> Tensors:
        return self.method.solution(response)

    def trace(self, response: Response) -> Any:
        """Another method's steps; see `Unrolled.trace`."""
        return self.method.trace(response)

    def pullback(self, response: Response, cotangent: Tensors, wanted: Sequence[Key]) -> Tensors:
        del response, cotangent, wanted
        return {}
