"""`Cause`: why a hypergradient is wrong, in words; raised in a run, listed by an audit."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from .._errors import CapabilityWarning, GraphError

__all__ = ["Aloud", "Cause", "Gathered"]


@dataclass(frozen=True)
class Cause:
    """Why a hypergradient is wrong, or would be.

    Attributes:
        kind: "reads": what a function uses is not what it is given; "writes": it writes what others
            read; "state": it gives another value at the same point; "value": it returns no
            objective; "detached": it reads a source past autograd; "backward": its gradient is not
            the derivative of its values; "derivatives": it lacks a derivative that is needed;
            "precision": rounding is too coarse; "graph": parts, hooks and optimizers.
        where: label of the problem or signal; empty where it is none's alone.
        text: what was met, and what to do.
        refused: whether a step refuses to begin because of it.
    """

    kind: str
    where: str
    text: str
    refused: bool = False


class Aloud:
    """In a run: the first refusal ends the check, and warnings go their way.

    Attributes:
        refused: whether one was heard, and the check goes on.
    """

    refused = False

    def __call__(self, kind: str, where: str) -> AbstractContextManager[None]:
        """A block in which a check of one kind is made."""
        del kind, where
        return nullcontext()


class Gathered(Aloud):
    """In an audit: refusals and warnings of mlopt's own end the block alone, and are listed.

    Attributes:
        causes: the list.
    """

    def __init__(self) -> None:
        self.causes: list[Cause] = []

    @contextmanager
    def _block(self, kind: str, where: str) -> Iterator[None]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                yield
            except GraphError as error:
                self.causes.append(Cause(kind, where, str(error), refused=True))
                self.refused = True
        for w in caught:
            if issubclass(w.category, CapabilityWarning):
                self.causes.append(Cause(kind, where, str(w.message)))
            else:
                warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)

    def __call__(self, kind: str, where: str) -> AbstractContextManager[None]:
        """A block in which a check of one kind is made."""
        return self._block(kind, where)
