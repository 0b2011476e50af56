"""Right calls of `mlopt.data`, on a data set of eight images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arguments.example import Example, folder, of

from mlopt import data

__all__ = ["EXAMPLES", "tiny"]


def fields(name: str = "tiny") -> dict[str, Any]:
    images, labels = torch.zeros(8, 1, 4, 4, dtype=torch.uint8), torch.arange(8) % 2
    return {
        "name": name,
        "train_images": images,
        "train_labels": labels,
        "test_images": images,
        "test_labels": labels,
        "class_names": ("a", "b"),
        "mean": (0.5,),
        "std": (0.5,),
    }


def tiny() -> data.ImageData:
    return data.ImageData(**fields())


def part() -> dict[str, Any]:
    whole = tiny()
    return {"data": whole, "images": whole.train_images, "labels": whole.train_labels}


def image_files() -> data.ImageFiles:
    from PIL import Image

    place = folder()
    Image.fromarray(np.zeros((4, 4, 3), dtype=np.uint8)).save(place / "a.png")
    return data.ImageFiles(place, np.array([os.fsencode("a.png")]), 4)


def normalization() -> data.Normalization:
    return data.Normalization((0.5,), (0.5,))


def images() -> torch.Tensor:
    return torch.zeros(2, 1, 4, 4)


EXAMPLES: dict[str, Example] = {
    "mlopt.data.CropAndFlip": of(
        lambda: {"image_size": 4, "padding": 1, "flip": True}, padding="0"
    ),
    "mlopt.data.CropAndFlip.__call__": of(
        lambda: {"images": images()}, on=lambda: data.CropAndFlip(4, 1, False)
    ),
    "mlopt.data.Cutout": of(lambda: {"length": 2}),
    "mlopt.data.Cutout.__call__": of(lambda: {"images": images()}, on=lambda: data.Cutout(2)),
    "mlopt.data.ImageBatches": of(lambda: {"part": tiny().train}),
    "mlopt.data.ImageData": of(
        fields,
        name="empty, unknown",
        mean="-1 inside, 0 inside",
        class_names="empty inside, unknown inside",
        wrong={"train_images": (None, 3, [1]), "test_images": (None, 3, [1])},
    ),
    "mlopt.data.ImageFiles": of(
        lambda: {"folder": Path(), "names": np.array([b"a"]), "image_size": 4},
        left_out="empty",
    ),
    "mlopt.data.ImageFiles.fit": of(lambda: {"images": [torch.zeros(3, 4, 4)]}, on=image_files),
    "mlopt.data.ImageFiles.path": of(
        lambda: {"index": 0}, on=image_files, index="-1, 0", wrong={"index": (1, -2)}
    ),
    "mlopt.data.ImageFiles.read": of(on=image_files),
    "mlopt.data.ImagePart": of(part, wrong={"images": (None, 3, [1])}),
    "mlopt.data.ImagePart.take": of(
        lambda: {"indices": torch.tensor([0, 1])},
        on=lambda: tiny().train,
        indices="whole",
        wrong={"indices": (torch.tensor([8]), torch.tensor([-9]))},
    ),
    "mlopt.data.Normalization": of(
        lambda: {"mean": (0.5,), "std": (0.5,)}, mean="-1 inside, 0 inside"
    ),
    "mlopt.data.Normalization.from_generator": of(lambda: {"images": images()}, on=normalization),
    "mlopt.data.Normalization.from_pixels": of(lambda: {"pixels": images()}, on=normalization),
    "mlopt.data.Normalization.to_generator": of(lambda: {"x": images()}, on=normalization),
    "mlopt.data.augmentation": of(
        lambda: {"image_size": 4, "padding": 1, "flip": True}, padding="0"
    ),
    "mlopt.data.hold_out": of(
        lambda: {"data": tiny()}, seed="-1, 0", wrong={"one_in": (1, 9), "seed": (2**64,)}
    ),
    "mlopt.data.images_of": of(lambda: {"other": tiny(), "like": tiny()}),
    "mlopt.data.load": of(
        lambda: {"name": "digits"},
        root="empty, unknown",  # digits has no files
        wrong={"options": ({"image_size": 4},)},
    ),
    "mlopt.data.loader": of(
        lambda: {"part": tiny().train, "batch_size": 2},
        seed="-1, 0",
        workers="0",
        wrong={"seed": (2**64,)},
    ),
    "mlopt.data.search_split": of(
        lambda: {"data": tiny()},
        seed="-1, 0",
        wrong={"shares": ((0.5, 0.6), (0.0, 0.5), (0.5,)), "seed": (2**64,)},
    ),
    "mlopt.data.split_indices": of(
        lambda: {"data": tiny()},
        seed="-1, 0",
        wrong={"shares": ((0.5, 0.6), (0.0, 0.5), (0.5,)), "seed": (2**64,)},
    ),
    "mlopt.data.standard_augmentation": of(lambda: {"name": "digits", "image_size": 8}),
}
