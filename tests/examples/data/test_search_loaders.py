"""The loaders of the examples' searches, on images in files."""

from __future__ import annotations

import pytest
import torch
from image_files import write_imagenet

import mlopt
from support.data import load_data, search_loaders
from support.settings import Settings

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]


@pytest.fixture
def settings(tmp_path):
    def make(**options) -> Settings:
        given = {"dataset": "imagenet", "data_root": str(tmp_path), "image_size": 12}
        return Settings(**given | {"batch_size": 8} | options)

    write_imagenet(tmp_path, classes=3, images=12)
    return make


def test_a_search_on_imagenet_reads_a_tenth_and_a_fortieth(settings) -> None:
    s = settings(workers=1)
    data = load_data(s)
    assert (data.image_size, data.classes) == (12, 3)
    train, valid = search_loaders(data, s, plain=True)
    assert [len(loader.dataset) for loader in (train, valid)] == [3, 3]  # one of each class
    ((x, y, plain),) = train
    assert x.shape == plain.shape == (3, 3, 12, 12)
    assert sorted(y.tolist()) == [0, 1, 2]
    assert not torch.equal(x, plain)
    ((x, y),) = valid
    assert sorted(y.tolist()) == [0, 1, 2]


def test_unlabeled_images_are_held_out(settings) -> None:
    s = settings(batch_size=2)
    data = load_data(s)
    loaders = search_loaders(data, s, unlabeled=True)
    images = [loader.dataset.part.images for loader in loaders]
    assert [len(each) for each in images] == [3, 3, 12]
    paths = [each.path(k) for each in images for k in range(len(each))]
    assert len(set(paths)) == 18
    assert next(iter(loaders[2])).shape == (2, 3, 12, 12)


def test_fewer_training_images(settings) -> None:
    assert len(load_data(settings(train_images=10)).train) == 10
    assert len(load_data(settings()).train) == 36


def test_an_image_size_for_images_in_memory_is_refused() -> None:
    with pytest.raises(mlopt.SettingsError, match="digits has no option image_size"):
        load_data(Settings(dataset="digits", image_size=12))
