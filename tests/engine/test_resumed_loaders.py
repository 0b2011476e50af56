"""Loaders of `mlopt.data` in a run that is resumed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engine.chaos import held, take
from engine.test_resume import saved
from small import assert_same
from torch import Tensor

import mlopt
from mlopt.data import load, loader, search_split

STEPS, AT = 9, 4


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("at", [1, 4, 6])
def test_the_loaders_of_mlopt_read_nothing_again(workers: int, at: int) -> None:
    read: list[int] = []

    def make() -> mlopt.Engine:
        part = search_split(load("digits"))[0]

        def noisy(image: Tensor) -> Tensor:
            read.append(1)
            return image + torch.rand(())

        data = loader(part, 200, augment=noisy, workers=workers)
        w = torch.nn.Parameter(torch.zeros(10, 64))
        W = mlopt.Variable(w, "w")

        @mlopt.problem(over=W, data=data, optimizer=torch.optim.SGD([w], lr=0.1))
        def fit(w: Tensor, batch: Any) -> Tensor:
            x, y = batch
            return torch.nn.functional.cross_entropy(x.flatten(1) @ w.t(), y)

        return mlopt.Engine([fit])

    engine = make()
    take(engine, at)
    state = saved(engine.state_dict())
    take(engine, 4)

    other = make()
    other.step()  # its check, on other batches
    read.clear()
    other.load_state_dict(state)
    assert len(read) <= 200  # the next batch alone
    take(other, 4)
    assert_same(held(engine), held(other))


def test_engines_of_one_loader_are_resumed_without_a_word(recwarn: pytest.WarningsRecorder) -> None:
    """As the stages of a search are: that a pass begins later changes nothing for the others."""
    data = loader(search_split(load("digits"))[0], 200)

    def make() -> mlopt.Engine:
        w = torch.nn.Parameter(torch.zeros(10, 64))
        W = mlopt.Variable(w, "w")

        @mlopt.problem(over=W, data=data, optimizer=torch.optim.SGD([w], lr=0.1))
        def fit(w: Tensor, batch: Any) -> Tensor:
            x, y = batch
            return torch.nn.functional.cross_entropy(x.flatten(1) @ w.t(), y)

        return mlopt.Engine([fit])

    engine, other = make(), make()
    take(engine, 2)
    other.load_state_dict(saved(engine.state_dict()))
    take(engine, 4)
    take(other, 4)
    assert_same(held(engine), held(other))
    assert not recwarn.list
