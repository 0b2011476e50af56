"""Training from scratch on all training images, with several seeds, and one test."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from mlopt.data import Cutout, ImageData, standard_augmentation
from mlopt.nas import GENOTYPES, Genotype, evaluate, lr_schedule, retrain
from mlopt.report import RunFolder

from ..data import batches
from ..networks import prepared
from ..results import Row, over_seeds
from ..settings import Settings
from .network import build, size


def retrain_and_test(
    genotype: Genotype,
    data: ImageData,
    folder: RunFolder,
    s: Settings,
    learner: str,
    began: float,
) -> Row:
    """Train the derived network from scratch on all training images; its part of a result's row.

    Args:
        genotype: what the search found.
        data: with all training images.
        folder: of the run.
        s: the settings; `eval_seeds` networks are trained, with the seeds from `seed` on.
        learner: a name before the names of its metrics, empty if the search had only one.
        began: what `began` gave before the first of them.

    Returns:
        Its size, and its test error in percent: see `over_seeds`.
    """
    results = retrain_seeds(genotype, data, folder, s, learner, began)
    return {**size(genotype, data, s), **over_seeds(results, data, s)}


def retrain_seeds(
    genotype: Genotype,
    data: ImageData,
    folder: RunFolder,
    s: Settings,
    learner: str,
    began: float,
) -> list[Row]:
    """What `evaluate` measures of the network of each seed, and the seconds since it began.

    Each network has a checkpoint in the folder, from which an interrupted run goes on.
    """
    results: list[Row] = []
    rows = _logged(folder)
    for seed in range(s.seed, s.seed + s.eval_seeds):
        names = [learner, f"seed_{seed}" if seed > s.seed else ""]
        prefix = "".join(f"{name}/" for name in names if name)
        own = [row for row in rows if f"{prefix}train/loss" in row]
        started = time.perf_counter() - _spent(rows, own)

        def log(
            metrics: dict[str, float],
            prefix: str = prefix,
            there: frozenset[int] = frozenset(row["epoch"] for row in own),
        ) -> None:
            if metrics["epoch"] in there:  # logged, and then killed before it was saved
                return
            folder.log(
                "retrain",
                epoch=int(metrics["epoch"]),
                seconds=time.perf_counter() - began,
                lr=metrics["lr"],
                **{f"{prefix}train/{name}": metrics[name] for name in ("loss", "error")},
            )

        torch.manual_seed(seed)
        network = prepared(build(genotype, data, s), s)
        retrain(
            network,
            training_batches(data, s),
            epochs=s.eval_epochs,
            lr=s.eval_lr,
            momentum=s.momentum,
            weight_decay=s.eval_weight_decay,
            clip=s.clip,
            auxiliary_weight=s.auxiliary,
            drop_path=s.drop_path,
            label_smoothing=s.eval_label_smoothing,
            schedule=s.eval_schedule,
            warmup=s.eval_warmup,
            device=s.device,
            seed=seed,
            checkpoint=folder.path("_".join(["retrain", *filter(None, [learner]), f"{seed}.pt"])),
            on_epoch=log,
        )
        measured = evaluate(network, batches(data.test, s, batch_size=256, shuffle=False), s.device)
        results.append({**measured, "seed": seed, "seconds": time.perf_counter() - started})
    return results


def began(folder: RunFolder) -> float:
    """When retraining began, on this process's clock: before it, if another one was interrupted."""
    return time.perf_counter() - max((row["seconds"] for row in _logged(folder)), default=0.0)


def _logged(folder: RunFolder) -> list[Row]:
    return [row for row in folder.metrics() if row.get("phase") == "retrain"]


def _spent(rows: Sequence[Row], own: Sequence[Row]) -> float:
    """Seconds that the rows of one network took, which are among those of all."""
    if not own:
        return 0.0
    first = rows.index(own[0])
    return own[-1]["seconds"] - (rows[first - 1]["seconds"] if first else 0.0)


def training_batches(data: ImageData, s: Settings) -> DataLoader[Any]:
    """All training images, augmented as is usual for the data set, with cutout if asked for."""
    return batches(
        data.train,
        s,
        batch_size=s.eval_batch_size,
        augment=standard_augmentation(data.name, data.image_size),
        finish=Cutout(s.cutout) if s.cutout else None,
        drop_last=len(data.train) > s.eval_batch_size,
    )


def check(data: ImageData, s: Settings) -> None:
    """Refuse, before a search or a training, what retraining would refuse after it.

    Args:
        data: what is retrained on.
        s: the settings.

    Raises:
        SettingsError: the images do not suit the auxiliary head, or the schedule is impossible.
    """
    size(GENOTYPES["DARTS_V2"], data, s)
    optimizer = torch.optim.SGD([torch.zeros(())], s.eval_lr)
    lr_schedule(optimizer, s.eval_schedule, s.eval_epochs, warmup=s.eval_warmup)
