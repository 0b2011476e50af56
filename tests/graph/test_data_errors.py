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
