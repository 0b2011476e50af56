"""Tensors that an evaluation writes and the next one reads: named, whatever values tell of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from evaluation.keeping import Layer, X, engine_of, fit, layer, plain
from small import F64, seeded, state_of
from torch import Tensor, nn

import mlopt
from mlopt import CapabilityWarning, GraphError

#: A teacher is most often the student's copy: at the start no value changes when it follows.
STUDENT = seeded(1, Layer).weight.detach().clone()


def followed(teacher: Tensor, student: Tensor) -> Tensor:
    return 0.75 * teacher + 0.25 * student  # exact where both are the same


def pulled(w: Any, r: Tensor, teacher: Tensor) -> Tensor:
    return plain(w, r) + ((w.weight - teacher) ** 2).mean()


@torch.no_grad()
def in_place(t: Tensor, w: Tensor) -> None:
    t.mul_(0.75).add_(0.25 * w)


def by_data(t: Tensor, w: Tensor) -> None:
    t.data.mul_(0.75).add_(0.25 * w.data)


def other_data(t: Tensor, w: Tensor) -> None:
    t.data = followed(t.data, w.data)


@torch.no_grad()
def by_foreach(t: Tensor, w: Tensor) -> None:
    torch._foreach_mul_([t], 0.75)
    torch._foreach_add_([t], [0.25 * w])


@torch.no_grad()
def by_out(t: Tensor, w: Tensor) -> None:
    torch.add(0.75 * t, 0.25 * w, out=t)


def by_numpy(t: Tensor, w: Tensor) -> None:
    t.numpy()[...] = followed(t, w.detach()).numpy() * (1 + 1e-12)


@torch.no_grad()
def by_a_view(t: Tensor, w: Tensor) -> None:
    t[0].copy_(followed(t[0], w[0]))


def in_a_closure(move: Any) -> tuple[Any, Callable[[], Tensor], str]:
    teacher = STUDENT.clone()

    def low(w, r):
        move(teacher, w.weight)
        return pulled(w, r, teacher)

    return low, lambda: teacher, "teacher"


def of_a_module() -> tuple[Any, Callable[[], Tensor], str]:
    teacher = seeded(1, Layer).requires_grad_(False)

    def low(w, r):
        in_place(teacher.weight, w.weight)
        return plain(w, r) + ((w(X) - teacher(X)) ** 2).mean()

    return low, lambda: teacher.weight.detach(), "teacher.weight"


def of_a_method() -> tuple[Any, Callable[[], Tensor], str]:
    class Trainer:
        def __init__(self) -> None:
            self.teachers = [STUDENT.clone()]

        def low(self, w, r):
            in_place(self.teachers[0], w.weight)
            return pulled(w, r, self.teachers[0])

    trainer = Trainer()
    return trainer.low, lambda: trainer.teachers[0], "self.teachers[0]"


def of_a_default() -> tuple[Any, Callable[[], Tensor], str]:
    teacher = STUDENT.clone()

    def helper(w, r, *, ema=teacher):
        in_place(ema, w.weight)
        return pulled(w, r, ema)

    return (lambda w, r: helper(w, r)), lambda: teacher, "ema"


def under_a_name() -> tuple[Any, Callable[[], Tensor], str]:
    teacher = STUDENT.clone()

    def low(w, r):
        nonlocal teacher
        teacher = followed(teacher, w.weight.detach())
        return pulled(w, r, teacher)

    return low, lambda: teacher, "teacher"


def of_an_object() -> tuple[Any, Callable[[], Tensor], str]:
    held = SimpleNamespace(teacher=STUDENT.clone())

    def low(w, r):
        held.teacher = followed(held.teacher, w.weight.detach())
        return pulled(w, r, held.teacher)

    return low, lambda: held.teacher, "held.teacher"


MOVES = [in_place, by_data, other_data, by_foreach, by_out, by_numpy, by_a_view]
KEPT = {
    **{move.__name__: lambda move=move: in_a_closure(move) for move in MOVES},
    "a module": of_a_module, "a method": of_a_method, "a default": of_a_default,
    "a name": under_a_name, "an object": of_an_object,
}  # fmt: skip


def said_by(engine: mlopt.Engine) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        engine.step()
    return [str(w.message) for w in caught]


@pytest.mark.parametrize("name", KEPT)
def test_a_teacher_is_named_and_the_first_check_leaves_it_where_it_was(name: str) -> None:
    low, teacher, called = KEPT[name]()
    engine = engine_of(low=low)
    (said,) = said_by(engine)
    assert said.startswith(f"low: each evaluation writes {called}, and its value depends on")
    assert "register_buffer" in said
    assert "callback" in said
    moved = STUDENT * (1 + 1e-12) if name == "by_numpy" else STUDENT
    assert torch.equal(teacher(), moved)  # one evaluation of the step, at the start
    student = next(v.value for v in engine.graph.variables if v.name == "w").weight.detach()
    expected = followed(moved, student)
    if name == "by_numpy":
        expected = expected * (1 + 1e-12)
    assert not said_by(engine)
    assert torch.equal(teacher(), expected)


def test_one_that_differs_from_the_start_is_left_where_it_was() -> None:
    start = torch.linspace(-1, 1, 3, dtype=F64)[None]
    teacher = start.clone()

    def low(w, r):
        in_place(teacher, w.weight)
        return pulled(w, r, teacher)

    (said,) = said_by(engine_of(low=low))
    assert "writes teacher," in said
    assert "global generators" not in said
    assert torch.equal(teacher, followed(start, STUDENT))


def test_one_that_takes_derivatives_inside_is_evaluated_with_gradients_all_the_same() -> None:
    """The upper objective reads w without gradient, which it differentiates by."""
    teacher = STUDENT.clone()

    def up(r, w):
        in_place(teacher, w.weight)
        (gradient,) = torch.autograd.grad(plain(w, r), w.weight, create_graph=True)
        return (gradient**2).sum() + pulled(w, r, teacher)

    (said,) = said_by(engine_of(up=up, hypergrad=mlopt.Frozen()))
    assert said.startswith("up: each evaluation writes teacher,")


def test_a_large_one() -> None:
    queue = torch.zeros(2**16 + 3, dtype=F64)

    def low(w, r):
        with torch.no_grad():
            queue[:8].add_(w(X)[:, 0])
        return plain(w, r) + queue.mean()

    (said,) = said_by(engine_of(low=low))
    assert "writes queue," in said
    assert torch.equal(queue[:8], seeded(1, Layer)(X)[:, 0].detach())


def test_of_several_those_are_named_that_are_read() -> None:
    teacher, total, calls = STUDENT.clone(), torch.zeros((), dtype=F64), []

    def low(w, r):
        in_place(teacher, w.weight)
        loss = pulled(w, r, teacher)
        total.add_(loss.detach())
        calls.append(0)
        return loss

    engine = engine_of(low=low)
    (said,) = said_by(engine)
    assert "writes teacher, and" in said
    assert len(calls) == 1  # what is beside it is put back with it
    assert torch.equal(total, plain(seeded(1, Layer), torch.zeros((), dtype=F64)).detach())


def test_in_an_attribute_of_a_variable_it_is_refused() -> None:
    def move(m: Any, x: Tensor, h: Tensor) -> Tensor:
        in_place(m.teacher, m.weight)
        return h + x @ (m.weight - m.teacher).T

    engine = layer(move, teacher=STUDENT.clone())
    for _ in range(2):
        with pytest.raises(GraphError, match=r"evaluation writes w\.teacher,.*register_buffer"):
            engine.step()
        assert torch.equal(engine.graph.variables[0].value.teacher, STUDENT)


def test_a_factor_that_is_annealed_there_is_refused_however_little_it_does() -> None:
    def anneal(m: Any, x: Tensor, h: Tensor) -> Tensor:
        m.factor *= 1 + 1e-5
        return h * m.factor**1e-5

    with pytest.raises(GraphError, match=r"evaluation writes w\.factor,.*register_buffer"):
        layer(anneal, factor=1.0).step()


def test_of_a_signal_and_its_reader() -> None:
    centre = torch.zeros(1, dtype=F64)

    def sig(w):
        out = w(X) - centre
        centre.mul_(0.5).add_(0.5 * out.detach().mean(0))
        return out

    with pytest.warns(CapabilityWarning, match="^sig: each evaluation writes centre,"):
        engine_of(signal=sig).plan()  # which makes the first check alone
    assert not centre.any()


def test_what_the_first_evaluation_makes_for_good_stays() -> None:
    scale, made = torch.ones(1, 3, dtype=F64), set()

    def low(w, r):
        if not made:
            made.add(True)
            scale.copy_(X.std(0)[None])
        return fit(w(X / scale), r)

    assert not said_by(engine_of(low=low))
    assert torch.equal(scale, X.std(0)[None])


def test_a_metric_in_a_module_is_said_to_count_as_before() -> None:
    class Mean(nn.Module):  # as those of torchmetrics
        def __init__(self) -> None:
            super().__init__()
            self.total, self.count = torch.zeros((), dtype=F64), 0

        def forward(self, x: Tensor) -> None:
            self.total += x.detach().sum()
            self.count += len(x)

    metric = Mean()

    def low(w, r):
        metric(w(X))
        return plain(w, r)

    (said,) = said_by(engine_of(low=low))
    assert said.startswith("low: each evaluation changes metric.total and metric.count,")


@pytest.mark.parametrize("recompute", [False, True])
def test_of_several_steps(recompute: bool) -> None:
    low, _, called = of_a_module()
    engine = engine_of(low=low, hypergrad=mlopt.Unrolled(3, recompute=recompute))
    assert [called in text for text in said_by(engine)] == [True]


def test_the_audit_says_it_and_leaves_it() -> None:
    low, teacher, called = of_a_module()
    engine = engine_of(low=low)
    before, kept = state_of(engine), teacher().clone()
    report = mlopt.audit(engine, directions=1)
    assert [(c.kind, c.where) for c in report.causes] == [("state", "low")]
    assert called in report.causes[0].text
    assert not any("rounding" in text for text in report.warnings)
    assert torch.equal(teacher(), kept)
    assert engine.steps == before["steps"]
