"""The digits of scikit-learn."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
import torch
from compare import near
from sklearn.datasets import load_digits

from mlopt._errors import SettingsError
from mlopt.data import load

WRITTEN = "six digits: half a unit of the last is up to 1.7e-6"


def test_sizes_and_constants() -> None:
    data = load("digits")
    assert (data.classes, data.channels, data.image_size) == (10, 1, 8)
    assert (len(data.train), len(data.test)) == (1352, 445)
    assert (int(data.train_images.min()), int(data.train_images.max())) == (0, 16)
    unit = data.train_images.double() / 16
    near(unit.mean(), data.mean[0], 2e-6, why=WRITTEN)
    near(unit.std(correction=0), data.std[0], 2e-6, why=WRITTEN)


def test_the_test_part_is_a_quarter_of_every_class() -> None:
    data = load("digits")
    test, train = data.test_labels.bincount(), data.train_labels.bincount()
    assert test.tolist() == ((test + train) // 4).tolist()


def test_train_and_test_are_the_whole_set_with_its_labels() -> None:
    data = load("digits")
    pixels, labels = load_digits(return_X_y=True)
    ours = torch.cat([data.train_images, data.test_images]).flatten(1).numpy()
    ours = np.column_stack([ours, torch.cat([data.train_labels, data.test_labels]).numpy()])
    theirs = np.column_stack([pixels, labels]).astype(ours.dtype)
    order = [rows[np.lexsort(rows.T)] for rows in (ours, theirs)]
    assert (order[0] == order[1]).all()


def test_no_random_state_is_used() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    state = torch.get_rng_state()
    first = load("digits")
    assert torch.equal(torch.get_rng_state(), state)
    np.random.seed(2)
    assert torch.equal(first.test_images, load("digits").test_images)


def test_without_scikit_learn(monkeypatch) -> None:
    real = builtins.__import__

    def fake(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fake)
    with pytest.raises(SettingsError, match="pip install scikit-learn"):
        load("digits")
