"""Images per second that `mlopt.data.loader` prepares: batched or single changes, 0 to 2 workers.

CIFAR's augmentation (crop, flip, cutout) is done once for each batch, as `standard_augmentation`
does it, or image by image with torchvision's transforms. ImageNet's is done image by image on JPEG
files of 500 x 375 pixels, which are written for the measurement. Nothing else runs meanwhile: with
a network to train, workers prepare while it computes. All variants take turns in every round.

    python benchmarks/image_loaders.py
    python benchmarks/image_loaders.py --batch-size 16 --rounds 5 --output x.md
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torchvision.transforms import v2

from mlopt.data import Cutout, ImageData, load, loader, standard_augmentation
from mlopt.report import format_table

WORKERS = (0, 1, 2)


class OneByOne:
    """Hides that a change takes whole batches."""

    def __init__(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.change = change

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return self.change(image)


def small_images(count: int) -> ImageData:
    """Random pixels of CIFAR's shape."""
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(count) % 10
    names = tuple(map(str, range(10)))
    constants = ((0.5,) * 3, (0.25,) * 3)
    return ImageData("cifar10", images, labels, images[:10], labels[:10], names, *constants)


def write_photographs(root: Path, count: int) -> None:
    """JPEGs of the usual size with smooth content: noise would take longer to decode."""
    for part in ("train", "val"):
        folder = root / part / "n00000001"
        folder.mkdir(parents=True)
        for k in range(count if part == "train" else 1):
            coarse = torch.randint(0, 256, (3, 38, 50), dtype=torch.uint8)
            image = v2.functional.to_pil_image(coarse).resize((500, 375), Image.Resampling.BICUBIC)
            image.save(folder / f"n00000001_{k}.JPEG", quality=90)


def rate(batches: Iterable[Any], count: int) -> float:
    """Images per second over so many batches, after the first, which starts the workers."""
    pass_ = iter(batches)
    next(pass_)
    images, start = 0, time.perf_counter()
    for _ in range(count):
        images += len(next(pass_)[1])
    return images / (time.perf_counter() - start)


class Row(NamedTuple):
    """One augmentation of one kind of images."""

    images: str
    augmentation: str
    batches: int
    options: dict[str, Any]


def rows(root: Path, batch_size: int, batches: int) -> list[Row]:
    """What is measured; of files only a tenth of the batches, since they take far longer."""
    whole = standard_augmentation("cifar10", 32)
    single = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()])
    in_memory = {"part": small_images(batch_size * (batches + 1)).train}
    small = "3x32x32 in memory"
    # a few files, read again and again: what counts is decoding, not the disk
    photographs = load("imagenet", root).train
    few = max(1, batches // 10)
    several = torch.arange(batch_size * (few + 1)) % len(photographs)
    in_files = {"part": photographs.take(several)}
    search = standard_augmentation("imagenet", 224, search=True)
    evaluation = standard_augmentation("imagenet", 224)
    large = "JPEG to 3x224x224"
    return [
        Row(small, "none", batches, in_memory),
        Row(small, "batched", batches, in_memory | {"augment": whole, "finish": Cutout(16)}),
        Row(
            small,
            "one by one",
            batches,
            in_memory | {"augment": single, "finish": OneByOne(Cutout(16))},
        ),
        Row(large, "resize, centre", few, in_files),
        Row(large, "crop, flip", few, in_files | {"augment": search}),
        Row(large, "crop, flip, jitter", few, in_files | {"augment": evaluation}),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--batches", type=int, default=40, help="timed in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="Markdown file for the table")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), 32)
        measured = rows(Path(folder), a.batch_size, a.batches)
        rates: dict[tuple[int, int], list[float]] = {}
        for _ in range(a.rounds):
            for k, row in enumerate(measured):
                for workers in WORKERS:
                    batches = loader(batch_size=a.batch_size, workers=workers, **row.options)
                    rates.setdefault((k, workers), []).append(rate(batches, row.batches))
    table = [
        {
            "images": row.images,
            "augmentation": row.augmentation,
            **{str(w): f"{statistics.median(rates[k, w]):,.0f}" for w in WORKERS},
        }
        for k, row in enumerate(measured)
    ]
    columns = {"images": "images", "augmentation": "augmentation"}
    columns |= {str(w): f"{w} workers" for w in WORKERS}
    text = (
        f"Images per second, batches of {a.batch_size}, median of {a.rounds} rounds, "
        f"{os.cpu_count()} cores, torch {torch.__version__}.\n\n"
        + format_table(table, columns, markdown=True)
    )
    print(text)
    if a.output:
        a.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
