"""The host waits for the device once a step."""

from __future__ import annotations

import pytest
import torch
from evaluation.low_precision import World
from small import batches, bilevel, mlp, sgd
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import mlopt
from mlopt.loggers import JsonlLogger, TensorBoard


class Reads(TorchDispatchMode):
    """Counts what makes the host wait for a device: values, comparisons and shapes it asks for.

    After one read another finds everything done: until the next operation they wait once.
    """

    SYNCS = ("_local_scalar_dense", "equal", "nonzero", "unique", "masked_select", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.done = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if any(name == s or name.startswith(f"{s}_") for s in self.SYNCS):
            self.found.append(name)
        else:
            self.done = False
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
            if not mode.done:
                mode.found.append(name)
            mode.done = busy[0] = True
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
    reads.found.clear()
    with reads:
        y = x + 1
        y.tolist(), x.tolist(), (y + 1).tolist()
    assert reads.found == ["tolist", "tolist"]


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
    assert reads.found == ["item"] * 4
    reads.found.clear()
    with reads:
        engine.run(steps=5, log_every=100, progress=False)
    assert reads.found == ["item"] * 5
    reads.found.clear()
    with reads:
        engine.run(steps=5, log_every=5, progress=False)
    assert len(reads.found) > 5  # a logging step reads its numbers


def test_logging_adds_none_to_the_steps_between(reads, tmp_path):
    """With loggers, and a picture among the metrics."""
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    case = bilevel(train=batches(200, seed=1), valid=batches(200, seed=2))
    objective = case.lower.fn
    case.lower.fn = lambda w, a, batch: (objective(w, a, batch), {"weights": w[0].weight})
    engine = case.engine()
    counts = {}

    class Counts(mlopt.Callback):
        def on_between(self, engine):
            counts[engine.steps] = len(reads.found)
            reads.found.clear()

    loggers = [JsonlLogger(tmp_path / "a.jsonl"), TensorBoard(tmp_path / "board")]
    engine.step()
    reads.found.clear()
    with reads:
        engine.run(
            steps=149, log_every=50, callbacks=[Counts()], loggers=loggers, progress=False,
            phases={"fit": "all"},
        )  # fmt: skip
    assert [step for step, found in counts.items() if found != 1] == [50, 100, 150]
    assert counts.keys() == set(range(2, 151))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("product", [mlopt.Exact(), mlopt.Central(), mlopt.OneSided()])
def test_one_synchronisation_in_low_precision(reads, product, precision):
    engine = World(mlopt.OneStep(product=product)).engine(precision)
    engine.step()
    reads.found.clear()
    with reads:
        for _ in range(4):
            engine.step()
    assert reads.found == ["item"] * 4


def test_one_synchronisation_with_alternation(reads):
    case = bilevel(hypergrad=mlopt.Frozen(), train=batches(100), valid=batches(100))
    engine = case.engine(schedule=mlopt.Alternate((case.lower, 5), (case.upper, 1)))
    engine.step()
    reads.found.clear()
    with reads:
        engine.step()
    assert reads.found == ["item"]


def test_what_may_be_undone_is_copied_together() -> None:
    """On a GPU a kernel for each tensor would take longer than the step of a small network."""

    class Copies(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func is torch.ops.aten.clone.default
            return func(*args, **(kwargs or {}))

    W, A = mlopt.Variable(mlp(), "w"), mlopt.Variable(mlp(seed=1), "a")

    def problem(over: mlopt.Variable, given: mlopt.Variable) -> mlopt.Problem:
        adam = torch.optim.Adam(over.parameters(), lr=0.01)
        return mlopt.problem(over=over, given=[given], optimizer=adam, name=over.name)(
            lambda x, y: sum((p - q).square().sum() for p, q in zip(
                x.parameters(), y.parameters(), strict=True))
        )  # fmt: skip

    nodes = [problem(W, A), problem(A, W)]
    engine = mlopt.Engine(nodes, hypergrad=mlopt.Frozen(), schedule=mlopt.Sequential())
    engine.step()
    with Copies() as copies:
        engine.step()
    assert copies.count == 0
