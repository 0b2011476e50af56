"""Faults as users write them: the audit names the cause; their right neighbours have none."""

from __future__ import annotations

import copy
import random
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from audit.audited import right
from audit.planted import (
    CENTRAL,
    Counting,
    Doubled,
    Dropping,
    Once,
    Reversed,
    Sine,
    X,
    calls_its_engine,
    changed,
    checkpointed,
    counter,
    drawn,
    fit,
    hard,
    hooked,
    kinked,
    listed,
    looks,
    of_argument,
    of_batch,
    of_output,
    one_weight,
    penalised,
    plain,
    popped,
    recomputed,
    replaced,
    replaced_and_held,
    rounded,
    scaled,
    several,
    shared_mode,
    shifted,
    world,
    writes_data,
    writes_weights,
)  # fmt: skip
from small import assert_same, seeded, state_of
from torch import nn

import mlopt
from mlopt import Dense, Implicit, OneStep, Sama, audit

HERE = r" in (planted|test_causes)\.py, line \d+"


@dataclass(frozen=True)
class Row:
    """A program, and what is said of it.

    Attributes:
        make: the engine.
        kind: of the one cause; empty where there is none.
        text: a pattern of what it says.
        around: a block in which the audit is made.
    """

    make: Callable[[], mlopt.Engine]
    kind: str = ""
    text: str = ""
    around: Callable[[], Any] = nullcontext


def at(low: Any = None, up: Any = None, **options: Any) -> Callable[[], mlopt.Engine]:
    return lambda: world(low, up, **options)


def made(**options: Any) -> Callable[[], mlopt.Engine]:
    """Of options that have to be made anew each time."""
    return lambda: world(**{k: v() for k, v in options.items()})


def autocast() -> Any:
    return torch.autocast("cpu", torch.bfloat16)


def inside(w: Any, r: Any) -> Any:
    with autocast():
        return fit(w(X.to(r.dtype)).float(), r, X.to(r.dtype).sum(1, keepdim=True))


NOT = r"the backward is not the derivative of the values"
STATE = r"^low: evaluated twice at one point.* It changes {}\."
F32 = torch.float32
SINGLE = {"low": lambda w, r: fit(w(X.to(r.dtype)).float(), r.float(), X.float()[:, :1]),
          "up": lambda r, w: (w(X.to(r.dtype)) ** 2).mean() + (r**2).sum()}  # fmt: skip

PLANTED = {
    # past autograd
    "detached": Row(at(of_argument(lambda r: r.detach())), "detached",
                    rf"^low reads r without gradient \(detach\(\){HERE}.*stop\(r\)"),
    "detached by item": Row(at(lambda w, r: fit(w(X), r) + r[0].item() * w(X).mean()), "detached",
                            rf"^low reads r in part without gradient \(item\(\){HERE}"),
    "detached in part": Row(at(of_argument(lambda r: r / 2 + r.detach() / 2)), "detached",
                            rf"^low reads r in part without gradient \(detach\(\){HERE}"),
    "detached above": Row(at(up=lambda r, w: (w(X).detach() ** 2).mean() + (r**2).sum()),
                          "detached", r"^up reads w without gradient"),
    # backwards
    "straight through": Row(at(of_output(rounded)), "backward", rf"^low: by w .*{NOT}.*detach\(\)"),
    "straight through, central": Row(at(of_output(rounded), method=CENTRAL), "backward", NOT),
    "straight through, Sama": Row(at(of_output(rounded), method=Sama()), "backward", NOT),
    "a hard choice": Row(at(of_argument(hard)), "backward", rf"^low: by r .*{NOT}.*detach\(\)"),
    "reversed": Row(at(of_output(Reversed.apply)), "backward", rf"^low: by w .*{NOT}.*Reversed"),
    "reversed, central": Row(at(of_output(Reversed.apply), method=CENTRAL), "backward", "Reversed"),
    "reversed by detach": Row(at(of_output(lambda h: 2 * h.detach() - h)), "backward", NOT),
    "reversed above": Row(at(up=lambda r, w: (w(X) ** 2).mean() + Reversed.apply(r).sum()),
                          "backward", rf"^up: by r .*{NOT}.*Reversed"),
    "reversed beside kinks": Row(at(of_output(Reversed.apply), net=kinked()), "backward", NOT),
    "a wrong factor": Row(at(of_output(Doubled.apply)), "backward", rf"{NOT}.*Doubled"),
    "of one weight": Row(at(one_weight), "backward", rf"^low: by w\.0\.weight .*{NOT}.*Doubled"),
    "a hook inside": Row(at(of_output(hooked)), "backward", rf"{NOT}.*register_hook\(\){HERE}"),
    "not twice": Row(at(recomputed), "derivatives", r"^low: its gradient .*Again has a backward"),
    "once differentiable": Row(at(of_output(Once.apply)), "derivatives", "central differences"),
    "once differentiable, implicit": Row(
        at(of_output(Once.apply), method=Implicit(Dense(), damping=1.0)), "derivatives",
        "central differences"),
    "reentrant": Row(at(checkpointed(True)), "derivatives", r"^low: .*use_reentrant=False"),
    # precision
    "autocast inside": Row(at(inside, **{"up": SINGLE["up"]}, method=CENTRAL, dtype=F32),
                           "precision", r"^low: .*bfloat16.*Exact\(\)"),
    "autocast around": Row(at(**SINGLE, method=CENTRAL, dtype=F32), "precision",
                           r"^low: .*bfloat16.*Exact\(\)", autocast),
    "low precision": Row(at(**SINGLE, method=CENTRAL, dtype=torch.bfloat16), "precision",
                         r"^low: .*bfloat16.*Exact\(\)"),
    # state
    "an attribute": Row(made(net=lambda: Counting(False)), "state", r"^low: .*w\.calls.*buffer"),
    "a counter": Row(made(low=counter), "state", STATE.format("calls")),
    "a list": Row(made(low=listed), "state", STATE.format("seen")),
    "a table": Row(made(low=shifted), "state", "^low: each evaluation writes table, and "),
    "a generator of torch": Row(made(low=lambda: drawn("torch")), "state", STATE.format("own")),
    "a generator of NumPy": Row(made(low=lambda: drawn("NumPy")), "state", STATE.format("own")),
    "a generator of Python": Row(made(low=lambda: drawn("Python")), "state", STATE.format("own")),
    "dropout of its own": Row(
        made(net=lambda: seeded(1, lambda: nn.Sequential(nn.Linear(3, 1), Dropping()))),
        "state", STATE.format(r"w\.1\.own")),
    "another's mode": Row(shared_mode, "state", r"^low: .* which changes frozen\.training"),
    # writes
    "a batch": Row(lambda: world(**of_batch(lambda x: x.mul_(0.5))), "writes", "^low .*its batch"),
    "a batch by .data": Row(lambda: world(**of_batch(lambda x: x.data.mul_(0.5))), "writes",
                            "^low writes its batch"),
    "a batch by NumPy": Row(lambda: world(**of_batch(lambda x: np.negative(x.numpy(), x.numpy()))),
                            "writes", "^low writes its batch"),
    "another level's weights": Row(at(up=writes_weights), "writes", "^up writes w in place"),
    "another's by .data": Row(at(up=writes_data), "writes", "^up writes w in place"),
    # what is there
    "a new layer": Row(lambda: changed(replaced), "graph", r"^low: w\.2\.weight is new.*add_param"),
    "a hook after accumulation": Row(
        lambda: changed(lambda n, o: n[0].weight.register_post_accumulate_grad_hook(print)),
        "graph", r"^low: w\.0\.weight has a hook that runs after"),
    "a gradient hook": Row(
        lambda: changed(lambda n, o: n[0].weight.register_hook(lambda g: 0 * g), CENTRAL),
        "graph", r"^low: w\.0\.weight has a hook on its gradient"),
    "a step hook": Row(
        lambda: changed(lambda n, o: o.register_step_post_hook(lambda *_: None), OneStep()),
        "graph", "^low: its optimizer has step hooks"),
    "never read": Row(at(lambda w, r: (w(X) ** 2).mean()), "reads", "^low is given r and never"),
}  # fmt: skip

RIGHT = {
    "plain": Row(at()),
    "plain, central": Row(at(method=CENTRAL)),
    "a metric": Row(at(lambda w, r: (plain(w, r), {"r": r.detach().sum().item()}))),
    "a shift that cancels": Row(at(of_argument(lambda r: (r - r.detach().max()).softmax(0)))),
    "a stopped read": Row(at(of_argument(lambda r: r.detach()), stop=True)),
    "a constant": Row(at(lambda w, r: fit(w(X), r) * torch.no_grad()(lambda: X.sum())())),
    "kinks": Row(at(net=kinked())),
    "a function of its own": Row(at(of_output(Sine.apply))),
    "a backward that is used once": Row(at(recomputed, method=CENTRAL)),
    "a gradient inside": Row(at(penalised("w"))),
    "a gradient inside, central": Row(at(penalised("x"), method=CENTRAL)),
    "checkpointed": Row(at(checkpointed(False))),
    "checkpointed, central": Row(at(checkpointed(False), method=CENTRAL)),
    "draws of torch": Row(at(scaled(lambda: torch.rand(())))),
    "draws of NumPy": Row(at(scaled(lambda: float(np.random.rand())))),  # noqa: NPY002
    "draws of Python": Row(at(scaled(random.random))),
    "a buffer": Row(made(net=lambda: Counting(True))),
    "dropout": Row(made(net=lambda: nn.Sequential(nn.Linear(3, 1), nn.Dropout(0.3)))),
    "entries popped": Row(at(popped, data=[{"x": X, "y": X[:, :1]}])),
    "a mode": Row(made(up=lambda: looks, net=lambda: seeded(
        1, lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))))),
    "a list that nothing reads": Row(at(lambda w, r, seen=[]: seen.append(1) or plain(w, r))),  # noqa: B006
    "a layer that is held": Row(lambda: changed(replaced_and_held)),
    "a hook that looks": Row(
        lambda: changed(lambda n, o: n[0].weight.register_hook(lambda g: None))),
    "autocast of float64": Row(at(), around=autocast),
}  # fmt: skip


@contextmanager
def nothing_changes(engine: mlopt.Engine) -> Iterator[None]:
    """That a block changes nothing that the engine or its functions can reach."""

    def everything() -> Any:
        streams = [s.loader for n in engine.graph.nodes for s in n.streams]
        held = [list(c.cell_contents) for n in engine.graph.nodes for c in n.fn.__closure__ or ()
                if isinstance(c.cell_contents, list)]  # fmt: skip
        draws = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        modes = [m.training for v in engine.graph.variables if isinstance(v.value, nn.Module)
                 for m in v.value.modules()]  # fmt: skip
        return copy.deepcopy((state_of(engine), streams, held, draws, modes))

    before = everything()
    yield
    assert_same(before, everything())


def of_run(engine: mlopt.Engine) -> list[str]:
    """What a step says: why it refuses to begin, or its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            engine.step()
        except mlopt.GraphError as error:
            return [str(error)]
    return [str(w.message) for w in caught]


@pytest.mark.parametrize("name", PLANTED)
def test_it_names_the_cause(name: str) -> None:
    row = PLANTED[name]
    engine = row.make()
    with row.around(), nothing_changes(engine):
        report = audit(engine, directions=1)
    assert {cause.kind for cause in report.causes} == {row.kind}
    cause = report.causes[0]
    assert re.search(row.text, cause.text), cause.text
    assert cause.text in str(report)
    assert not any("Take Central" in text for text in report.warnings)
    if cause.refused:
        assert report.worst == float("inf")
        assert of_run(engine) == [cause.text]
    elif row.kind in ("state", "precision") and name != "another's mode":
        with row.around():
            assert of_run(engine) == [c.text for c in report.causes]


@pytest.mark.parametrize("name", RIGHT)
def test_its_right_neighbour_has_none(name: str) -> None:
    row = RIGHT[name]
    engine = row.make()
    with row.around(), nothing_changes(engine):
        report = audit(engine, directions=1)
    assert report.causes == ()
    assert all(text.startswith("Kinks") for text in report.warnings)
    if not report.warnings:
        right(report.worst, 1e-5)
    with row.around():
        assert of_run(engine) == []


def test_an_objective_that_calls_its_engine() -> None:
    (cause,) = audit(calls_its_engine()).causes
    assert cause.text.startswith("hypergradient(): called inside audit()")


def test_autocast_around_a_step_and_an_audit_is_autocast_inside() -> None:
    """No cast of weights that have changed since is read."""
    around = world(**SINGLE, dtype=F32)
    within = world(**{k: autocast()(f) for k, f in SINGLE.items()}, dtype=F32)
    with autocast():
        around.run(steps=2, progress=False)
        found = audit(around, directions=1)
    within.run(steps=2, progress=False)
    expected = audit(within, directions=1)
    assert [f.error for f in found.findings] == [f.error for f in expected.findings]
    assert found.causes == expected.causes
    assert found.rounding > 1e-4


def test_an_optimum_by_first_derivatives_alone() -> None:
    """Nothing is wrong, and no oracle is left: double backward gives none."""
    method = Implicit(Dense(), product=CENTRAL.product, damping=1.0)
    report = audit(world(of_output(Once.apply), method=method), directions=1)
    assert report.causes == ()
    assert [f.error for f in report.findings] == [None, None]


def test_all_at_once() -> None:
    engine = several()
    with nothing_changes(engine):
        report = audit(engine)
    assert [(c.kind, c.where, c.refused) for c in report.causes] == [
        ("writes", "low", True), ("state", "also", True), ("reads", "up", True),
    ]  # fmt: skip
    with pytest.raises(mlopt.AuditError, match="in place"):
        report.check()
