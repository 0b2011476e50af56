"""A batch is drawn after the step before it, whatever the loader, and stays what it is in its step.

Loaders that make a batch of what is true when it is drawn: of the weights, of a buffer that they
write over, of what a callback has set. The expected values are those of a plain loop.
"""

from __future__ import annotations

import os
import signal

import pytest
import torch
from small import F64, assert_same, sgd
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Sampler

import mlopt

LENGTH = 3


class Rollouts:
    """Batches that are made of the weights, into one buffer or a new tensor each."""

    def __init__(self, weight: torch.Tensor, reuse: bool, fails: frozenset[int]) -> None:
        self.weight, self.reuse, self.fails = weight, reuse, set(fails)
        self.buffer = torch.zeros(2, dtype=F64)

    def __iter__(self):
        for i in range(LENGTH + 1):
            if i in self.fails:
                self.fails.remove(i)
                raise OSError("once")
            if i == LENGTH:
                return
            made = torch.cat([self.weight.detach(), torch.full((1,), float(i), dtype=F64)])
            yield self.buffer.copy_(made) if self.reuse else made


class Sized(Rollouts):
    def __len__(self):
        return LENGTH


class Data(Rollouts, IterableDataset):
    pass


def made(kind: type, reuse: bool, fails: frozenset[int] = frozenset(), scheduled: bool = False):
    W = mlopt.Variable(nn.Parameter(torch.ones(1, dtype=F64)), "w")
    loader = kind(W.value, reuse, fails)
    loader = DataLoader(loader, batch_size=None) if kind is Data else loader
    optimizer = sgd(W)
    scheduler = Breaks(optimizer) if scheduled else None
    options = {"scheduler": mlopt.PerStep(scheduler)} if scheduled else {}

    @mlopt.problem(over=W, data=loader, optimizer=optimizer, name="p", **options)
    def p(w, batch):
        return (w * (1 + batch[1])).sum(), {"from": batch[0] + 0, "i": batch[1] + 0}

    return W, mlopt.Engine([p]), scheduler


class Breaks(torch.optim.lr_scheduler.LRScheduler):
    """Raises when it is told to, after the batch was used and the next one drawn."""

    breaks = False

    def get_lr(self):
        if self.breaks:
            raise ZeroDivisionError
        return [group["lr"] for group in self.optimizer.param_groups]


def check_step(n: int, W, engine, refused: type = OSError) -> int:
    """Take step n, again if it is refused; how often it was."""
    before, failed = W.value.detach().clone(), 0
    while True:
        try:
            metrics = engine.step()
            break
        except refused:
            failed += 1
            assert_same(before, W.value.detach())
        for problem in engine.graph.problems:
            if problem.scheduler is not None:
                problem.scheduler.scheduler.breaks = False
    assert_same(metrics["p/from"].reshape(1), before)
    assert int(metrics["p/i"]) == n % LENGTH
    assert engine.epoch == (n + 1) // LENGTH
    return failed


KINDS = pytest.mark.parametrize("kind", [Rollouts, Sized, Data])
REUSE = pytest.mark.parametrize("reuse", [False, True])


@KINDS
@REUSE
def test_a_batch_is_made_of_the_weights_of_its_step(kind: type, reuse: bool) -> None:
    W, engine, _ = made(kind, reuse)
    for n in range(3 * LENGTH):
        check_step(n, W, engine)
        engine.hypergradient(engine.graph.problems[0])


@KINDS
@REUSE
@pytest.mark.parametrize("fails", [{1}, {LENGTH - 1}, {LENGTH}])
def test_also_where_a_draw_fails(kind: type, reuse: bool, fails: set[int]) -> None:
    W, engine, _ = made(kind, reuse, frozenset(fails))
    assert sum(check_step(n, W, engine) for n in range(3 * LENGTH)) == 1


@KINDS
@REUSE
@pytest.mark.parametrize("at", range(LENGTH + 1))
def test_also_where_the_step_fails_that_drew_the_next_batch(
    kind: type, reuse: bool, at: int
) -> None:
    W, engine, scheduler = made(kind, reuse, scheduled=True)
    for n in range(2 * LENGTH):
        scheduler.breaks = n == at
        assert check_step(n, W, engine, ZeroDivisionError) == (n == at)


def test_a_draw_at_the_end_of_a_step_can_be_interrupted() -> None:
    class Waits(Rollouts):
        interrupts, came_back = 1, False

        def __iter__(self):
            for i, batch in enumerate(super().__iter__()):
                if i == 1 and self.interrupts:
                    self.interrupts = 0
                    os.kill(os.getpid(), signal.SIGINT)
                    sum(range(1000))  # it is raised before this ends
                    self.came_back = True
                yield batch

    W, engine, _ = made(Waits, True)
    assert check_step(0, W, engine, KeyboardInterrupt) == 1
    assert not next(iter(engine.graph.problems)).streams[0].loader.came_back
    for n in range(1, 2 * LENGTH):
        assert check_step(n, W, engine, KeyboardInterrupt) == 0


class Chosen(Sampler):
    """Gives what is wanted at the time, such as the hardest sample."""

    def __init__(self) -> None:
        self.want = 0

    def __iter__(self):
        for _ in range(LENGTH):
            yield self.want

    def __len__(self) -> int:
        return LENGTH


def test_what_a_callback_chooses_is_the_next_batch() -> None:
    sampler, seen = Chosen(), []
    data = DataLoader(torch.arange(20.0, dtype=F64), sampler=sampler, batch_size=1)
    W = mlopt.Variable(nn.Parameter(torch.ones(1, dtype=F64)), "w")

    @mlopt.problem(over=W, data=data, optimizer=sgd(W), name="p")
    def p(w, batch):
        return (w * batch).sum(), {"got": batch.sum()}

    class Wants(mlopt.Callback):
        def on_step(self, engine, metrics):
            seen.append((sampler.want, int(metrics["p/got"])))
            sampler.want = (7 * engine.steps) % 20

    engine = mlopt.Engine([p])
    engine.run(epochs=4, progress=False, callbacks=[Wants()])
    assert engine.steps == 4 * LENGTH
    # The first batch of a pass is drawn by the step that reads it, as are all others.
    assert [got for _, got in seen] == [want for want, _ in seen]


@pytest.mark.parametrize("between", ["loop", "engine", "hypergradient", "all"])
@pytest.mark.parametrize("sized", [False, True])
def test_who_else_goes_through_a_loader_of_one_buffer_changes_nothing(
    sized: bool, between: str
) -> None:
    """Between a draw and its use: a batch that waits is not written over."""
    loader = (Sized if sized else Rollouts)(torch.zeros(1), True, frozenset())
    seen: list[float] = []

    def engine() -> mlopt.Engine:
        W = mlopt.Variable(nn.Parameter(torch.ones(1, dtype=F64)), "w")
        declare = mlopt.problem(over=W, data=loader, optimizer=sgd(W), name="p")
        return mlopt.Engine([declare(lambda w, b: ((w * b[1]).sum(), {"i": b[1] + 0}))])

    ours, other = engine(), engine()
    for _ in range(2 * LENGTH + 1):
        if between in ("hypergradient", "all"):
            ours.hypergradient(ours.graph.problems[0])
        if between in ("loop", "all"):
            assert len([*loader]) == LENGTH
        if between in ("engine", "all"):
            other.step()
        seen.append(float(ours.step()["p/i"]))
    assert seen == [float(i % LENGTH) for i in range(2 * LENGTH + 1)]
