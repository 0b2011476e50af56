"""CIFAR from small files in the published format, and every way in which the files can be wrong."""

from __future__ import annotations

import pytest
import torch

from mlopt._errors import DataError
from mlopt.data import load, search_split


def test_cifar10_holds_the_files_pixels_in_order(cifar_files) -> None:
    pixels = cifar_files.cifar10()
    data = load("cifar10", cifar_files.root)
    expected = torch.from_numpy(pixels).view(-1, 3, 32, 32)
    assert torch.equal(data.train_images, expected[:20])
    assert torch.equal(data.test_images, expected[20:])
    assert data.train_labels.tolist() == [(k + i) % 10 for k in range(5) for i in range(4)]
    assert data.test_labels.tolist() == [5, 6, 7, 8]
    assert (data.classes, data.channels, data.image_size) == (10, 3, 32)
    assert data.class_names[3] == "thing 3"
    assert data.mean == (0.49139968, 0.48215827, 0.44653124)
    assert data.std == (0.24703233, 0.24348505, 0.26158768)


def test_cifar10_is_split_as_by_darts(cifar_files) -> None:
    cifar_files.cifar10()
    data = load("cifar10", cifar_files.root)
    train, valid = search_split(data)
    assert torch.equal(train.images, data.train_images[:10])
    assert torch.equal(valid.images, data.train_images[10:])


def test_cifar100_has_fine_labels(cifar_files) -> None:
    cifar_files.cifar100()
    data = load("cifar100", str(cifar_files.root))
    assert data.classes == 100
    assert data.train_labels.tolist() == [94, 95, 96, 97, 98, 99]
    assert data.mean == (0.5071, 0.4867, 0.4408)
    assert data.std == (0.2675, 0.2565, 0.2761)


def test_the_folder_of_the_batches_is_a_root_too(cifar_files) -> None:
    cifar_files.cifar10()
    assert len(load("cifar10", cifar_files.root / "cifar-10-batches-py").train) == 20


def test_no_root() -> None:
    with pytest.raises(DataError, match="give root, the folder that holds cifar-10-batches-py"):
        load("cifar10")


def test_missing_folder_says_where_to_get_it(tmp_path) -> None:
    with pytest.raises(DataError, match=r"no folder .*cifar-100-python.*cifar-100-python\.tar\.gz"):
        load("cifar100", tmp_path)


def test_missing_file_is_named(cifar_files) -> None:
    cifar_files.cifar10()
    (cifar_files.root / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(DataError, match="lacks data_batch_4"):
        load("cifar10", cifar_files.root)


def test_a_checksum_is_compared_before_anything_is_unpickled(tmp_path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name in ("train", "test", "meta"):
        (folder / name).write_bytes(b"cos\nabort\n.")  # a pickle that would name a function
    with pytest.raises(DataError, match="checksums differ"):
        load("cifar100", tmp_path)


@pytest.mark.parametrize(
    "content", [{"other": 1}, {"data": [1, 2], "labels": [0]}, 5], ids=["keys", "sizes", "type"]
)
def test_files_that_hold_something_else(cifar_files, content) -> None:
    cifar_files.cifar10()
    cifar_files.write("cifar-10-batches-py/data_batch_2", content)
    with pytest.raises(DataError, match="not CIFAR's batches"):
        load("cifar10", cifar_files.root)


def test_a_file_that_is_no_pickle(cifar_files) -> None:
    cifar_files.cifar10()
    (cifar_files.root / "cifar-10-batches-py" / "test_batch").write_bytes(b"hello")
    with pytest.raises(DataError, match="not CIFAR's batches"):
        load("cifar10", cifar_files.root)


def test_fewer_labels_than_images(cifar_files) -> None:
    pixels = cifar_files.cifar10()
    cifar_files.write("cifar-10-batches-py/data_batch_1", {"data": pixels[:4], "labels": [1, 2]})
    with pytest.raises(DataError, match="20 images but 18 labels"):
        load("cifar10", cifar_files.root)


def test_a_label_outside_the_classes(cifar_files) -> None:
    pixels = cifar_files.cifar10()
    content = {"data": pixels[:4], "labels": [1, 2, 10, 0]}
    cifar_files.write("cifar-10-batches-py/data_batch_1", content)
    with pytest.raises(DataError, match=r"labels range over 0\.\.10.*10 classes"):
        load("cifar10", cifar_files.root)
