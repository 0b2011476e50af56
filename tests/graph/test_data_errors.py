"""Loaders that give nothing, or are none: refused, with the remedy."""

from __future__ import annotations

import pytest
import torch
from bad_input import W, refused_at_the_first_step
from small import batches, sgd

import mlopt
from mlopt import DataError


def test_empty_loader():
    with pytest.raises(DataError, match=r"DataLoader over TensorDataset has no batches.*drop_last"):
        mlopt.Stream(
            torch.utils.data.DataLoader(
                torch.utils.data.TensorDataset(torch.zeros(3)), batch_size=4, drop_last=True
            )
        )
    with pytest.raises(DataError, match="list has no batches"):
        mlopt.problem(over=W, data=[])(lambda w, batch: w.sum())


def test_loader_that_turns_out_empty():
    class Nothing(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(())

    loader = torch.utils.data.DataLoader(Nothing())
    nothing = mlopt.problem(over=W, data=loader, optimizer=sgd(W))(lambda w, batch: w.sum())
    refused_at_the_first_step([nothing], error=DataError, match="gave no batch in a whole pass")


@pytest.mark.parametrize("data", [iter(batches(2)), (b for b in batches(2)), map(abs, [1])])
def test_iterator_as_loader(data):
    with pytest.raises(DataError, match="an iterator.*give the loader itself"):
        mlopt.problem(over=W, data=data)(lambda w, batch: w.sum())


def test_data_that_is_no_loader():
    with pytest.raises(DataError, match="takes a loader or a Stream, got int"):
        mlopt.problem(over=W, data=3)(lambda w, batch: w.sum())


def test_a_stream_of_a_stream():
    with pytest.raises(DataError, match="is a Stream already: use it as it is"):
        mlopt.Stream(mlopt.Stream(batches(2)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (torch.zeros(5, 2), r"Tensor of shape \(5, 2\).*rows one by one.*data=\[\(x, y\)\]"),
        ((torch.zeros(5, 2), torch.zeros(5)), "Tensor of shape.*rows one by one"),
        (torch.zeros(5, 2).numpy(), "ndarray of shape.*rows one by one"),
        ({"x": torch.zeros(5)}, r"got a dict.*data=\[batch\]"),
        ({1, 2}, "got a set"),
        ("train", "got a str"),
        (torch.utils.data.TensorDataset(torch.zeros(5)), "the data set TensorDataset.*DataLoader"),
        (torch.utils.data.DataLoader, "takes a loader"),
        ((batches(2), None), "takes a loader or a Stream, got NoneType"),
    ],
)
def test_what_gives_no_batches(data, match):
    with pytest.raises(DataError, match=rf"fit: data=.*{match}"):
        mlopt.problem(over=W, data=data, name="fit")(lambda w, batch: w.sum())
    if not isinstance(data, tuple):
        with pytest.raises(DataError, match=rf"Stream: loader=.*{match}"):
            mlopt.Stream(data)


def test_loaders_of_every_kind_are_legal():
    for data in (batches(2), (batches(2), batches(1)), range(3), ["text"]):
        mlopt.problem(over=W, data=data)(lambda w, batch: w.sum())
