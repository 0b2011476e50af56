"""Passes through a loader belong to an engine, and break off without a loss."""

from __future__ import annotations

import pytest
import torch
from graph.test_streams import numbers, reader
from small import F64, assert_same
from torch.utils.data import DataLoader

import mlopt


def test_engines_over_one_loader_have_passes_of_their_own():
    """Each draws what it draws alone, however they take turns, and beside a loop of the user's."""
    data = DataLoader(numbers(5), batch_size=None, shuffle=True)

    def alone():
        seen = []
        engine = mlopt.Engine([reader(data, seen=seen)])
        return engine, seen

    engine, expected = alone()
    for _ in range(12):
        engine.step()
    (one, a), (two, b) = alone(), alone()
    for i in range(12):
        one.step()
        if i == 3:
            next(iter(data))
        two.step()
        if i == 6:
            mlopt.Engine([reader(data)])
    assert a == b == expected
    assert one.epoch == two.epoch == 2


@pytest.mark.parametrize("length", [True, False])
def test_a_pass_that_breaks_off_goes_on_at_the_same_batch(length):
    """Whatever falls into a draw, in whichever part of a pass: no batch is lost or repeated."""

    class Breaks:
        def __init__(self):
            self.broken, self.at = set(), 0

        def __iter__(self):
            order = torch.randperm(5).tolist()
            for i, x in enumerate(order):
                if (self.at, i) in self.broken:
                    self.broken.remove((self.at, i))
                    raise OSError("once")
                self.at += i == 4  # which pass it is
                yield torch.tensor(float(x), dtype=F64) + torch.rand(1, dtype=F64)

    class Sized(Breaks):
        def __len__(self):
            return 5

    def draws(broken):
        loader, seen = (Sized if length else Breaks)(), []
        engine = mlopt.Engine([reader(loader, seen=seen)])
        engine.step()
        loader.broken = set(broken)
        took, failures = [], 0
        while len(took) < 14:
            try:
                engine.step()
                took.append(seen[-1])
            except OSError:
                failures += 1
        assert failures == len(broken)
        return took

    expected = draws([])
    for broken in ([(0, 2)], [(0, 4), (1, 0)], [(1, 1), (1, 3)]):
        assert_same(draws(broken), expected)
