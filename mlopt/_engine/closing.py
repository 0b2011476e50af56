"""`Closing`: the end of a step, where it is decided whether what was committed stays."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._errors import MloptError, NonFiniteError, exhausted
from .._graph.graph import Graph
from .._graph.node import Node
from .._tensors import numbers, spread
from .copies import may_spoil, spoils
from .operations import Commit, Operation
from .outcome import Outcome
from .residuals import Residuals
from .transaction import News, Transaction
from .watch import Care, Watch

__all__ = ["Closing"]

#: The buffers that each node's evaluation wrote, by the variable or signal that they belong to.
Written = dict[Node, dict[Any, list[Tensor]]]


class Closing:
    """Looks at what a step computed and committed.

    Args:
        graph: the graph.
        transaction: of the step.
        watch: what the step computed.
        outcome: takes what was found.
        care: where the quick way of looking does not do; what is learned is noted.
    """

    def __init__(
        self, graph: Graph, transaction: Transaction, watch: Watch, outcome: Outcome, care: Care
    ) -> None:
        self.graph, self.transaction = graph, transaction
        self.watch, self.outcome, self.care = watch, outcome, care
        self.residuals = Residuals()
        self._ranks = transaction.evaluator.ranks

    def begin(self, operations: Sequence[Operation], written: Written) -> None:
        """Nothing but commits follows: what they change is remembered together; Ctrl-C waits.

        Args:
            operations: what follows.
            written: the buffers that evaluations wrote.
        """
        self.transaction.interrupts.begin()
        nodes: list[Node] = [o.problem for o in operations if isinstance(o, Commit)]
        if self.graph.signals:
            nodes += [s for s in self.graph.signals if written.get(s)]
        self.transaction.keep(*nodes)

    def settle(self) -> None:
        """Before a commit values are what they are over all ranks."""
        if self._ranks is not None:
            self._ranks.settle()

    def write_signals(self, written: Written) -> None:
        """Commit the memory of signals, once, if anything was committed."""
        if self.graph.signals and self.transaction.updated:
            for signal in self.graph.signals:
                if own := written.pop(signal, None):
                    self.transaction.write(signal, own)

    def decide(self, written: Written) -> bool:
        """Whether everything is finite: the step's one host synchronisation.

        Args:
            written: the buffers that evaluations wrote; the memory of signals is decided on, too.

        Returns:
            Whether it is; if not, the outcome says what is not.
        """
        if self._ranks is not None:
            for flag in self._ranks.flags():
                self.watch.note_before(None, "odd", flag)
        if not self.transaction.copies:
            new = News()
        else:
            self.write_signals(written)
            new = self.transaction.news()
            if self.care.masks:
                self._watch_commits(self.watch, new)
            else:
                came = [t for _, t in new.tensors] + [t for _, t, _ in new.buffers]
                for peak in self.transaction.memory.peaks(came):
                    self.watch.note(None, "update", peak)
        found = self.watch.first()
        if found == (None, "odd"):  # has the step gone by a wrong account of what ranks have?
            if self._ranks is not None and self._ranks.presence.clear():
                self.outcome.astray, self.outcome.failed = True, ("", "")
                return False
            found = self.watch.first(but="odd")
        if found is not None and found[0] is None:  # whose? Or was it there from the start?
            self._watch_commits(closer := Watch(), new)
            found = closer.first()
            self.care.masks = found is None
        if found is None and new.spoilt is not None:
            found = new.spoilt, "update"
        if found is None:
            self.residuals.report(self.graph, self.outcome.metrics, self.care)
            return True
        node, what = found
        if self._ranks is not None and node is not None:
            self.outcome.ranks = self._ranks.spoilers(node)
        if what == "gradient" and not self.care.norms:
            self.outcome.overflowed = self.care.norms = self._overflows(node)
        self._fail(node, what)
        return False

    def explains(self, error: BaseException) -> bool:
        """Whether an error comes of something that is not finite, which the outcome then says.

        A method raises a `NonFiniteError` where it meets one; an objective that reads nan, or an
        optimizer, may raise anything.

        Args:
            error: what was raised.

        Returns:
            Whether it does.
        """
        known = isinstance(error, NonFiniteError)
        if self._ranks is not None and not known:  # what one rank alone has raised
            return False
        other = isinstance(error, Exception) and not isinstance(error, MloptError)
        if not known and (not other or exhausted(error)):
            return False
        found = None
        with contextlib.suppress(Exception):  # of a device that no longer answers
            found = self.watch.first()
        if found is not None:
            self._fail(*found)
        elif isinstance(error, NonFiniteError):
            self.outcome.failed = (error.problem, "")
            if self._ranks is not None:  # a number of the method's, the same on all
                self.outcome.ranks = self._ranks.spoilers(None)
        self.outcome.cause = error
        return self.outcome.failed is not None

    def _fail(self, node: Node | None, what: str) -> None:
        assert node is not None
        self.outcome.failed = (self.graph.labels[node], what)

    def _watch_commits(self, watch: Watch, new: News) -> None:
        for node, what, flag in self.transaction.memory.spoilt(new.tensors):
            watch.note(node, what, flag)
        for node, buffer, before in new.buffers:
            if may_spoil(buffer):
                watch.note(node, "update", spoils(buffer, before))

    def _overflows(self, node: Any) -> bool:
        """Whether a gradient is finite, and its norm alone is not."""
        gradient = self.outcome.gradients[node]
        bad = not all(bool(torch.isfinite(numbers(g)).all()) for g in gradient.values())
        over = spread()
        return not (bad if over is None else over.most(torch.tensor(float(bad))) > 0)
