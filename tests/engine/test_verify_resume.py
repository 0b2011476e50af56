"""`verify_resume` finds no difference where there is none, and says where one is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engine.chaos import loaders
from small import bilevel, mlp
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mlopt
from mlopt import SettingsError

X = torch.linspace(-1, 1, 33, dtype=torch.float64).reshape(11, 3)
Y = X.sum(1, keepdim=True).sin()


def adam() -> mlopt.Engine:
    return loaders("adam")


class Forgets(torch.optim.SGD):
    """Counts its steps outside of its state, and slows down."""

    count = 0

    def step(self, closure: Any = None) -> Any:
        self.count += 1
        for group in self.param_groups:
            group["lr"] = 0.1 / self.count
        return super().step()


def forgetting() -> mlopt.Engine:
    return bilevel(
        mlp(), optimizer=lambda v: Forgets(v.parameters(), lr=0.1), hypergrad=mlopt.OneStep(lr=0.1)
    ).engine()


class Unlike(DataLoader):
    """Gives other batches in each process."""

    def __iter__(self) -> Any:
        import os

        draw = torch.Generator().manual_seed(os.getpid())
        return iter([(x, y + torch.rand((), generator=draw)) for x, y in super().__iter__()])


def unlike() -> mlopt.Engine:
    return bilevel(mlp(), train=Unlike(TensorDataset(X, Y), batch_size=4)).engine()


def nothing() -> int:
    return 3


NET = mlp()


def again() -> mlopt.Engine:
    """Of the network that the engine before has trained."""
    return bilevel(NET).engine()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (adam, "the same to the bit"),
        (forgetting, "step 2: state_dict()['variables']['w']['parameters']['0.weight'] differs"),
        (unlike, "step 2: batch 2 of loader 1 differs"),
    ],
)
def test_it_says_where_the_first_difference_is(make: Any, text: str) -> None:
    found = mlopt.verify_resume(make, steps=4, at=2)
    assert text in str(found)
    assert found.same is (make is adam)


@pytest.mark.parametrize(
    ("make", "options", "text"),
    [
        (lambda: adam(), {}, "cannot be sent to another process"),
        (nothing, {}, "it makes an Engine"),
        (again, {"steps": 2, "at": 1}, "gave an engine of 'w' again, which the one before"),
        (adam, {"steps": 3, "at": 3}, "must be before"),
    ],
)
def test_wrong_calls(make: Any, options: dict[str, int], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        mlopt.verify_resume(make, **options)


def drawn() -> mlopt.Engine:
    """Initial values and data from the global generators, as they stand."""
    train = [(torch.randn(4, 3, dtype=torch.float64), torch.rand(4, 1, dtype=torch.float64))]
    return bilevel(nn.Linear(3, 1).double(), train=train).engine()


def test_what_is_drawn_in_the_making_is_drawn_alike() -> None:
    torch.rand(3)  # a new process has not
    assert mlopt.verify_resume(drawn, 2, 1).same
