"""What an engine prints: its graph, its plan, what it measured."""

from __future__ import annotations

import time

import torch
from compare import exact, rounding
from small import F64, batches, bilevel, mlp, sgd
from torch import nn
from torch.nn.functional import mse_loss

import mlopt


def staged(method=None):
    """Two signals between three levels, as in schemes that learn from mistakes."""
    W, V = mlopt.Variable(mlp(1), "W"), mlopt.Variable(mlp(2), "V")
    A = mlopt.Variable(nn.Parameter(torch.zeros(3, dtype=F64)), "A")
    data = batches(3)

    @mlopt.problem(over=W, given=[A], data=data, optimizer=sgd(W))
    def stage1(w, a, batch):
        return mse_loss(w(batch[0] * a.exp()), batch[1])

    @mlopt.signal(given=[W, A], data=data)
    def mistakes(w, a, batch):
        return (w(batch[0] * a.exp()) - batch[1]).square()

    @mlopt.problem(over=V, given=[A, mistakes], data=data, optimizer=sgd(V))
    def stage2(v, a, mistakes, batch):
        return (mistakes * (v(batch[0] * a.exp()) - batch[1]).square()).mean()

    @mlopt.problem(over=A, given=[V], data=batches(3, seed=5), optimizer=sgd(A))
    def stage3(a, v, batch):
        return mse_loss(v(batch[0] * a.exp()), batch[1])

    nodes = [stage1, mistakes, stage2, stage3]
    return mlopt.Engine(nodes, hypergrad=method or mlopt.OneStep(product=mlopt.Central()))


def test_print_of_the_graph():
    central = "by OneStep(product=Central())"
    lines = [" ".join(line.split()) for line in str(staged().graph).splitlines()]
    assert lines == [
        f"stage1 W = argmin given A {central}",
        "mistakes signal given W, A",
        f"stage2 V = argmin given A, mistakes {central}",
        "stage3 A = argmin given V through stage2 -> mistakes -> stage1",
    ]
    assert str(staged(mlopt.Frozen()).graph).splitlines()[-1].endswith("given V")


def test_branches_of_the_graph_are_braced():
    W, V = (mlopt.Variable(nn.Parameter(torch.ones(2, dtype=F64)), n) for n in ("w", "v"))
    A = mlopt.Variable(nn.Parameter(torch.ones(2, dtype=F64)), "a")

    def player(variable):
        decorate = mlopt.problem(
            over=variable, given=[A], optimizer=sgd(variable), name=f"fit {variable.name}"
        )
        return decorate(lambda v, a: (v - a).square().sum())

    top = mlopt.problem(over=A, given=[[W, V], mlopt.stop(V)][:1], optimizer=sgd(A), name="top")(
        lambda a, wv: (wv[0] * wv[1] * a).sum()
    )
    engine = mlopt.Engine([player(W), player(V), top], hypergrad=mlopt.OneStep())
    assert str(engine.graph).splitlines()[-1].endswith("through {fit w, fit v}")


def test_stopped_reads_are_shown_and_pass_nothing():
    case = bilevel()
    stopped = mlopt.problem(
        over=case.A, given=[mlopt.stop(case.W)], data=case.valid, optimizer=sgd(case.A), name="tune"
    )(case.upper.fn)
    engine = mlopt.Engine([case.lower, stopped])
    assert "given stop(w)" in str(engine.graph)
    assert "through" not in str(engine.graph)
    expected = 0.02 * case.A.value.detach()
    exact(engine.hypergradient(stopped)[case.A][""], expected, rounding(4))


def test_mermaid():
    lines = staged().graph.mermaid().splitlines()
    assert lines[0] == "flowchart BT"
    assert '    n0["stage1<br/>min over W"]' in lines
    assert '    n1(["mistakes"])' in lines
    assert "    n0 -->|W| n1" in lines
    assert "    n1 --> n2" in lines
    assert "    n2 -->|V| n3" in lines
    # first order: nothing passes, every edge is dotted
    frozen = staged(mlopt.Frozen()).graph.mermaid()
    assert "n2 -.->|V| n3" in frozen
    assert "-->" not in frozen


def test_print_of_the_plan_and_the_measurement():
    engine = staged()
    assert engine.measurement is None
    plan = engine.plan()
    lines = str(plan).splitlines()
    assert lines[0].split() == ["evaluations", "backward", "passes"]
    assert lines[1].split()[:3] == ["stage1", "3", "3"]
    assert lines[2].split()[:3] == ["mistakes", "1", "1"]
    assert lines[3].split()[:3] == ["stage2", "3", "3"]
    assert lines[4].split()[:3] == ["stage3", "1", "1"]
    assert lines[5].split() == ["total", "8", "8"]
    assert "pulled back for stage3 by OneStep" in lines[1]
    assert (plan.evaluations, plan.backwards) == (8, 8)
    started = time.perf_counter()
    engine.step()
    took = time.perf_counter() - started
    measured = engine.measurement
    # w: three times in stage 1, once in the signal; v: three times in stage 2, once in stage 3
    assert measured.calls == {"W": 4, "V": 4}
    assert 0 < measured.seconds <= took
    assert measured.peak_bytes is None
    assert "W 4, V 4" in str(measured)
    engine.step()
    assert engine.measurement is measured
    assert measured.calls == {"W": 4, "V": 4}
    assert engine.plan() is plan


def test_equal_names_are_numbered():
    problems = []
    for k in range(2):
        V = mlopt.Variable(nn.Parameter(torch.full((1,), 1.0 + k, dtype=F64)), "v")
        problems.append(
            mlopt.problem(over=V, optimizer=sgd(V), name="learner")(lambda v: v.square().sum())
        )
    engine = mlopt.Engine(problems)
    assert {name.split("/")[0] for name in engine.step()} == {"learner#1", "learner#2"}
    exact(engine.step()["learner#1/loss"].item(), 0.8**2, rounding(6, condition=3))  # a square
