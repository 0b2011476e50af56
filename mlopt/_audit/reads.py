"""Gradients that functions give by what they read, against the slopes of their values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._evaluation.loss import split_loss
from .._evaluation.reads import eager
from .._evaluation.slope import ratio
from .._evaluation.ways import HOOK, Ways, custom_functions
from .._graph.node import Node
from .._graph.problem import Problem
from .._graph.signal import split
from .._tensors import Tensors, continuous, dense, norm, real
from .differences import differentiate
from .kinks import made_by_kinks
from .reference import part, parts
from .study import Study
from .values import Frame, Values
from .vectors import directions, displaced, flat

__all__ = ["compare_reads"]

_FEW = 16  # leaves of a source, of which each is looked at to name it


def compare_reads(study: Study, values: Values, problem: Problem) -> None:
    """Compare the slope of each function by each source with differences of its value.

        < d value / d source , d >    against    [value(source + h d) - value(source - h d)] / 2h

    Args:
        study: takes the causes; remembers what has been compared.
        values: of the graph, at the problem's batches.
        problem: whose lower nodes are looked at, itself among them.
    """
    values.begin(settles=False)
    frame = Frame(values, problem, values.standing(problem))
    for node in values.depends.reached(problem):
        if node in study.read or node in study.bent or study.is_half(node):
            continue
        if values.graph.rank[node] > values.graph.rank[problem]:
            continue
        study.read.add(node)
        inner = frame
        if isinstance(node, Problem) and node is not problem:
            inner = frame.below(node, values.standing(node))
        for read in node.reads:
            inner.value(read.source)  # what is solved for does not follow a displacement of others
        for source in (r.source for r in node.reads if not r.stopped):
            look = _Look(study, values, node, inner, source)
            if look.differs():
                study.bent.add(node)
                study.cause(look.kind, node, look.text())


class _Look:
    """One function's gradient by one source.

    Args:
        study: the audit.
        values: of the graph.
        node: whose function it is.
        frame: where it is evaluated.
        source: a variable or signal.
    """

    def __init__(self, study: Study, values: Values, node: Node, frame: Frame, source: Any) -> None:
        self.study, self.values, self.node, self.frame = study, values, node, frame
        self.source, self.kind = source, ""
        keys = parts(values, frame, source)
        point = {k: t for k in keys if continuous(t := part(frame, k))}
        # Beside the standing point, where a slope may be zero by chance: of (w - a)^2 at w = a.
        aside = next(directions(point, 1, study.seed + 1), {})
        self.point = displaced(point, aside, 1e-2) if point else {}
        self.ways: list[str] = []
        self.own: list[str] = []
        self.slopes: Tensors = {}
        self.says, self.does, self.smooth = "", "", True

    def value(self, tensors: Tensors) -> Tensor:
        """The function's, a scalar."""
        result = self.values.evaluate(self.node, self.frame.pinned(tensors))[0]
        if isinstance(self.node, Problem):
            return split_loss(result, self.node.name)[0]
        sums = [real(t).sum() for t in split(result, self.node.name).values() if continuous(t)]
        return torch.stack(sums).sum() if sums else torch.zeros(())

    def number(self, tensors: Tensors) -> Tensor:
        """The same as a constant, with the copies of the evaluation taken back."""
        out = self.value(tensors).detach()
        self.study.evaluator.release()
        return out if self.study.double else out.float()  # as which it was computed, if not all of

    def differs(self) -> bool:
        """Whether the gradient is not that of the values."""
        if not self.point:
            return False
        leaves = {k: t.detach().requires_grad_() for k, t in self.point.items()}
        with torch.enable_grad(), eager(), Ways() as ways:
            total = self.value(leaves)
        if total.requires_grad:
            found = torch.autograd.grad(
                total, list(leaves.values()), allow_unused=True, retain_graph=True
            )
            pairs = zip(leaves, found, strict=True)
            self.slopes = dense({k: g for k, g in pairs if g is not None})
        self.ways, self.own = list(ways.found), custom_functions(total)
        self.smooth = not made_by_kinks(total)
        return self._differs(self.point)

    def _differs(self, point: Tensors) -> bool:
        """Along one direction, as finely as kinks and jumps allow; else along the gradient."""
        (d,) = directions(point, 1, self.study.seed)
        slopes = {k: g for k, g in self.slopes.items() if k in point}
        if self.smooth:
            slope = differentiate(self.study.double, lambda h: self._along(point, d, h))
            said = float((flat(slopes, point) * flat(d, point)).sum())
            off = abs(said - slope.value)
            if not off > slope.blur(abs(slope.value)):
                return False
            if off > slope.blur(abs(slope.value)) + 2 * slope.unsure:
                self._tell(said, slope.value)
                return True
        if not slopes:
            return False
        with torch.no_grad():
            gradient = {k: g.detach() for k, g in slopes.items()}
            found = ratio(
                lambda moved: self.number({**self.point, **moved}),
                {k: point[k] for k in gradient},
                gradient,
            )
        if found is not None:
            length = float(norm(gradient))
            self._tell(length, found * length)
        return found is not None

    def _along(self, point: Tensors, d: Tensors, h: float) -> float:
        return float(self.number({**self.point, **displaced(point, d, h)}))

    def _tell(self, said: float, slope: float) -> None:
        """What autograd says of the slope, and what the values do: in which way they differ."""
        if self.kind:  # of the whole source, which comes first
            return
        self.says, self.does = f"{said:.3g}", f"{slope:.3g}"
        less = not self.slopes or 0 < said / slope < 1 if slope else not self.slopes
        bent = self.own or any(HOOK in way for way in self.ways)
        self.kind = "detached" if less and not bent else "backward"

    def text(self) -> str:
        """What was found, and what to do."""
        label, name = self.study.graph.labels[self.node], self._named()
        ways = f" ({', '.join(self.ways[:3])})" if self.ways else ""
        own = isinstance(self.node, Problem) and self.source in self.node.over
        stop = "" if own else f" Where that is meant, give it stop({self.source.name})."
        if self.kind == "detached":
            part = "in part " if self.slopes else ""
            return (
                f"{label} reads {name} {part}without gradient{ways}: its value changes with it by "
                f"{self.does}, of which autograd says {self.says}, and the hypergradient through "
                f"it is missed. Compute it of the argument itself.{stop}"
            )
        by = f" {' and '.join(self.own)} has a backward of its own." if self.own else ""
        return (
            f"{label}: by {name} the backward is not the derivative of the values: autograd says "
            f"{self.says} where they change by {self.does}{ways}.{by} Another radius does not "
            "help. Where that is a mistake, mend the backward; where it is meant (a "
            "straight-through estimator, a reversed gradient), product=Exact() differentiates the "
            "step that is made, and differences of values, which are compared with here, do not."
        )

    def _named(self) -> str:
        """The source, and which of its tensors, if not all."""
        name = self.source.name
        if not 1 < len(self.point) <= _FEW:
            return name
        bent = [k for k, t in self.point.items() if self._differs({k: t})]
        if not bent or len(bent) == len(self.point):
            return name
        return " and ".join(f"{name}.{k[1]}" for k in bent)
