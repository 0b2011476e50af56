"""`Engine`: what it returns, prints, counts and tells."""

from __future__ import annotations

import math
import time

import pytest
import torch
from small import F64, assert_same, batches, bilevel, mlp, sgd, state_of
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils._python_dispatch import TorchDispatchMode

import mlopt

# Hypergradients.


def test_hypergradient_for_a_list_of_variables_and_by_parameter_name():
    A, B = (mlopt.Variable(nn.Parameter(torch.ones(3, dtype=F64)), n) for n in "ab")
    N = mlopt.Variable(nn.Linear(1, 1).double(), "n")
    W = mlopt.Variable(mlp(), "w")
    train, valid = batches(2, seed=1), batches(2, seed=2)

    @mlopt.problem(over=W, given=[[A, B]], data=train, optimizer=sgd(W), hypergrad=mlopt.OneStep())
    def fit(w, ab, batch):
        return mse_loss(w(batch[0] * ab[0]), batch[1] * ab[1].mean())

    @mlopt.problem(over=[A, N, B], given=[W], data=valid)
    def tune(abn, w, batch):
        a, n, b = abn
        return mse_loss(n(w(batch[0] * a)), batch[1]) + b[0] ** 2

    engine = mlopt.Engine([fit, tune])
    found = engine.hypergradient(tune)
    assert list(found) == [A, N, B]
    assert set(found[A]) == {""}
    assert set(found[N]) == {"weight", "bias"}
    a, b = (v.value.detach().clone().requires_grad_() for v in (A, B))
    values = dict(W.value.named_parameters())
    x, y = train[0]
    loss = mse_loss(W.value(x * a), y * b.mean())
    gradient = torch.autograd.grad(loss, list(values.values()), create_graph=True)
    ahead = {k: p - 0.1 * g for (k, p), g in zip(values.items(), gradient, strict=True)}
    x, y = valid[0]
    out = N.value(torch.func.functional_call(W.value, ahead, (x * a,)))
    leaves = [a, N.value.weight, N.value.bias, b]
    expected = torch.autograd.grad(mse_loss(out, y) + b[0] ** 2, leaves)
    flat = [found[A][""], found[N]["weight"], found[N]["bias"], found[B][""]]
    torch.testing.assert_close(flat, list(expected), rtol=1e-12, atol=1e-14)
    own = engine.hypergradient(fit)[W]
    assert set(own) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert all(not g.requires_grad for g in [*flat, *own.values()])


# Metrics.


def metrics_case(**options):
    W = mlopt.Variable(mlp(), "w")
    A = mlopt.Variable(nn.Parameter(torch.tensor([0.1, -0.2, 0.3], dtype=F64)), "a")
    calls = []

    @mlopt.problem(
        over=W,
        given=[A],
        data=batches(3, seed=1),
        optimizer=sgd(W),
        hypergrad=mlopt.OneStep(product=mlopt.Central(radius=0.5)),
    )
    def fit(w, a, batch):
        calls.append(1)
        out = w(batch[0] * a.exp())
        loss = mse_loss(out, batch[1])
        return loss, {"size": out.square().mean(), "call": len(calls), "own loss": loss}

    @mlopt.signal(given=[W])
    def norms(w):
        return {"first": w[0].weight.norm(), "all": torch.stack([p.norm() for p in w.parameters()])}

    @mlopt.problem(over=A, given=[W, norms], data=batches(4, seed=2), optimizer=sgd(A))
    def tune(a, w, norms, batch):
        return mse_loss(w(batch[0]), batch[1]) + a.square().sum() + 0.01 * norms["first"]

    return calls, mlopt.Engine([fit, norms, tune], **options)


def test_metrics_are_those_of_the_base_evaluation():
    """D18 and D30: a dict of metrics, though differences evaluate the objective twice more."""
    calls, engine = metrics_case()
    engine.hypergradient(engine.graph.problems[0])
    calls.clear()
    metrics = engine.step()
    assert set(metrics) == {
        f"{p}/{n}" for p in ("fit", "tune") for n in ("loss", "gradient_norm")
    } | {"fit/size", "fit/call", "fit/own loss"}
    assert len(calls) == 3
    assert metrics["fit/call"] == 1
    assert metrics["fit/own loss"] == metrics["fit/loss"]
    assert all(not m.requires_grad for m in metrics.values() if isinstance(m, Tensor))
    W = engine.graph.problems[0].over[0]
    norm = torch.cat([p.grad.flatten() for p in W.parameters()]).norm()
    torch.testing.assert_close(metrics["fit/gradient_norm"], norm)
    assert set(engine.signals["norms"]) == {"first", "all"}
    assert not engine.signals["norms"]["first"].requires_grad


def test_signals_may_be_tuples_with_whole_numbers_in_them():
    W = mlopt.Variable(mlp(), "w")
    A = mlopt.Variable(nn.Parameter(torch.zeros(3, dtype=F64)), "a")
    data = batches(3)

    @mlopt.problem(over=W, given=[A], data=data, optimizer=sgd(W), hypergrad=mlopt.OneStep())
    def fit(w, a, batch):
        return mse_loss(w(batch[0] * a.exp()), batch[1])

    @mlopt.signal(given=[W], data=data)
    def best(w, batch):
        out = w(batch[0])
        return out, out.argmax(), out > 0

    @mlopt.problem(over=A, given=[best], optimizer=sgd(A))
    def tune(a, best):
        out, index, positive = best
        assert index.dtype == torch.int64
        assert positive.dtype == torch.bool
        return out[index].square().sum() + (out * positive).sum() + a.square().sum()

    engine = mlopt.Engine([fit, best, tune])
    assert engine.hypergradient(tune)[A][""].abs().max() > 0
    engine.step()


# Runs, and what observers are told.


class Log(mlopt.Callback):
    def __init__(self, stop_at: int | None = None) -> None:
        self.events: list[str] = []
        self.payload: dict[str, list] = {}
        self.stop_at = stop_at

    def _note(self, event, engine, payload=None):
        self.events.append(event)
        self.payload.setdefault(event, []).append((engine.steps, engine.epoch, payload))

    def on_start(self, engine):
        self._note("start", engine)

    def on_step(self, engine, metrics):
        self._note("step", engine, metrics)
        if engine.steps == self.stop_at:
            engine.stop()

    def on_log(self, engine, metrics):
        self._note("log", engine, metrics)

    def on_epoch(self, engine, metrics):
        self._note("epoch", engine, metrics)

    def on_validation(self, engine, metrics):
        self._note("validation", engine, metrics)

    def on_skip(self, engine, error):
        self._note("skip", engine, error)

    def on_end(self, engine):
        self._note("end", engine)


def test_callbacks_in_order_with_their_payload():
    _, engine = metrics_case()
    log, second = Log(), Log()
    asked = []

    def validate():
        asked.append(engine.epoch)
        return {"accuracy": 0.5}

    engine.run(
        epochs=4,
        validate=validate,
        validate_every=2,
        callbacks=[log, second],
        log_every=5,
        progress=False,
    )
    assert log.events == second.events
    # an epoch is three steps; logged are every fifth step, and the last of each epoch
    epoch = ["step", "step", "step", "log", "epoch"]
    fifth = ["step", "step", "log", "step", "log", "epoch"]
    tenth = ["step", "log", "step", "step", "log", "epoch"]
    validation = ["validation"]
    assert log.events == [
        "start",
        *epoch,
        *fifth,
        *validation,
        *epoch,
        *tenth,
        *validation,
        "end",
    ]
    assert asked == [2, 4]
    assert [p[2] for p in log.payload["validation"]] == [{"accuracy": 0.5}] * 2
    assert [p[:2] for p in log.payload["epoch"]] == [(3, 1), (6, 2), (9, 3), (12, 4)]
    steps = [p[2] for p in log.payload["step"]]
    assert all(isinstance(m["fit/loss"], Tensor) for m in steps)
    for name in ("fit/loss", "tune/loss"):
        first = log.payload["epoch"][0][2][name]
        assert first == pytest.approx(sum(m[name].item() for m in steps[:3]) / 3, rel=1e-12)
    numbers = log.payload["log"][0][2]
    assert type(numbers["fit/loss"]) is float
    assert numbers["fit/call"] == steps[2]["fit/call"]
    assert numbers["tune/loss"] == steps[2]["tune/loss"].item()


def test_small_signals_are_logged_by_name():
    W = mlopt.Variable(mlp(), "w")

    @mlopt.problem(over=W, data=batches(2), optimizer=sgd(W))
    def fit(w, batch):
        return mse_loss(w(batch[0]), batch[1])

    A = mlopt.Variable(nn.Parameter(torch.zeros((), dtype=F64)), "a")

    @mlopt.signal(given=[W])
    def weights(w):
        return w[2].weight.flatten()

    @mlopt.signal(given=[W])
    def picture(w):
        return w[0].weight * 1

    @mlopt.problem(over=A, given=[weights, picture], optimizer=sgd(A))
    def top(a, weights, picture):
        return a * weights.sum() * picture.sum()

    log = Log()
    engine = mlopt.Engine([fit, weights, picture, top], hypergrad=mlopt.Frozen())
    engine.run(steps=2, log_every=1, callbacks=[log], progress=False)
    numbers = log.payload["log"][-1][2]
    assert numbers["signal/weights"] == engine.signals["weights"].tolist()
    assert "signal/picture" not in numbers


def test_stop_ends_the_run_after_the_step_and_the_next_run_goes_on():
    _, engine = metrics_case()
    log = Log(stop_at=4)
    engine.run(steps=100, callbacks=[log], progress=False)
    assert engine.steps == 4
    assert engine.stopping
    assert log.events[-1] == "end"
    engine.run(steps=2, progress=False)
    assert engine.steps == 6
    assert not engine.stopping


def test_the_end_is_told_also_of_an_error():
    class Failing(Log):
        def on_step(self, engine, metrics):
            raise RuntimeError("observer")

    log = Failing()
    with pytest.raises(RuntimeError, match="observer"):
        metrics_case()[1].run(steps=3, callbacks=[log], progress=False)
    assert log.events == ["start", "end"]


def test_steps_and_runs_are_the_same_however_they_are_cut():
    _, one = metrics_case()
    _, two = metrics_case()
    _, three = metrics_case()
    one.run(epochs=3, progress=False)
    for n in (2, 5, 2):
        two.run(steps=n, progress=False)
    for _ in range(9):
        three.step()
    assert_same(state_of(one), state_of(two))
    assert_same(state_of(one), state_of(three))


@pytest.mark.parametrize("progress", [True, False])
def test_progress_bar(capsys, progress):
    _, engine = metrics_case()
    engine.run(epochs=2, progress=progress)
    shown = capsys.readouterr()
    assert shown.out == ""
    if progress:
        assert "6/6" in shown.err
        assert "epoch 2" in shown.err
        assert "tune/loss" in shown.err
    else:
        assert shown.err == ""


def test_a_run_of_no_steps_checks_nothing_and_ends():
    _, engine = metrics_case()
    log = Log()
    engine.run(steps=0, callbacks=[log], progress=False)
    assert log.events == ["start", "end"]


# One synchronisation a step.


class Reads(TorchDispatchMode):
    """Counts what makes the host wait for a device: values, comparisons and shapes it asks for."""

    SYNCS = ("_local_scalar_dense", "equal", "nonzero", "unique", "masked_select", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if any(name == s or name.startswith(f"{s}_") for s in self.SYNCS):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def reads(monkeypatch):
    """Names of the reads of tensors by the host, through Python or inside of torch."""
    mode = Reads()
    busy = [False]

    def watch(name):
        original = getattr(Tensor, name)

        def read(self, *args, **kwargs):
            if busy[0]:
                return original(self, *args, **kwargs)
            mode.found.append(name)
            busy[0] = True
            before = len(mode.found)
            try:
                return original(self, *args, **kwargs)
            finally:
                busy[0] = False
                del mode.found[before:]  # what it does inside is the same read

        monkeypatch.setattr(Tensor, name, read)

    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "__index__", "cpu", "numpy"):
        watch(name)
    return mode


def test_the_counter_sees_reads(reads):
    x = torch.arange(3.0)
    with reads:
        x.tolist(), x[0].item(), bool(x[0] > 0), float(x[0]), torch.equal(x, x), x.nonzero()
        x[x > 0]
    assert reads.found[:6] == ["tolist", "item", "__bool__", "__float__", "equal", "nonzero"]


@pytest.mark.parametrize("schedule", [mlopt.Simultaneous(), mlopt.UpperFirst()])
@pytest.mark.parametrize("product", [mlopt.Exact(), mlopt.Central(), mlopt.OneSided()])
@pytest.mark.parametrize("clip", [None, 0.1])
def test_one_synchronisation_a_step(reads, schedule, product, clip):
    net = nn.Sequential(mlp(), nn.BatchNorm1d(1, momentum=0.1).double(), nn.Dropout(0.1))
    case = bilevel(
        net,
        optimizer=lambda v: sgd(v, momentum=0.9, nesterov=True, weight_decay=0.1),
        hypergrad=mlopt.OneStep(product=product),
        train=batches(100, seed=1),
        valid=batches(100, seed=2),
        lower={"clip": clip, "repeat": 1},
    )
    engine = case.engine(schedule=schedule)
    engine.step()
    reads.found.clear()
    for _ in range(4):
        with reads:
            engine.step()
    assert reads.found == ["tolist"] * 4
    reads.found.clear()
    with reads:
        engine.run(steps=5, log_every=100, progress=False)
    assert reads.found == ["tolist"] * 5
    reads.found.clear()
    with reads:
        engine.run(steps=5, log_every=5, progress=False)
    assert len(reads.found) > 5  # a logging step reads its numbers


def test_one_synchronisation_with_alternation(reads):
    case = bilevel(hypergrad=mlopt.Frozen(), train=batches(100), valid=batches(100))
    engine = case.engine(schedule=mlopt.Alternate((case.lower, 5), (case.upper, 1)))
    engine.step()
    reads.found.clear()
    with reads:
        engine.step()
    assert reads.found == ["tolist"]


# What it prints.


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
    torch.testing.assert_close(engine.hypergradient(stopped)[case.A][""], expected)


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
        V = mlopt.Variable(nn.Parameter(torch.full((1,), 1.0 + k)), "v")
        problems.append(
            mlopt.problem(over=V, optimizer=sgd(V), name="learner")(lambda v: v.square().sum())
        )
    engine = mlopt.Engine(problems)
    assert {name.split("/")[0] for name in engine.step()} == {"learner#1", "learner#2"}
    assert math.isclose(engine.step()["learner#1/loss"].item(), 0.8**2, rel_tol=1e-5)
