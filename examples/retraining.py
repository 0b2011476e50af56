"""What follows a search: the derived network from scratch, its test error, and the table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from mlopt.data import Cutout, ImageData, standard_augmentation
from mlopt.nas import (
    GENOTYPES,
    EvaluationNetwork,
    Genotype,
    ImageNetNetwork,
    count_parameters,
    evaluate,
    lr_schedule,
    multiply_adds,
    retrain,
    spread,
)
from mlopt.report import RunFolder, format_table
from support.data import batches
from support.networks import prepared
from support.settings import Settings

Row = dict[str, Any]


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
        began: when retraining began, of those before it, too.

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
    for seed in range(s.seed, s.seed + s.eval_seeds):
        names = [learner, f"seed_{seed}" if seed > s.seed else ""]
        prefix = "".join(f"{name}/" for name in names if name)
        started = time.perf_counter()

        def log(metrics: dict[str, float], prefix: str = prefix) -> None:
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


def build(genotype: Genotype, data: ImageData, s: Settings) -> EvaluationNetwork | ImageNetNetwork:
    """The network of a genotype for these images, as the settings want it."""
    large = s.eval_form == "imagenet" or (s.eval_form == "auto" and data.name == "imagenet")
    kind = ImageNetNetwork if large else EvaluationNetwork
    return kind(
        genotype,
        s.eval_channels,
        s.eval_cells,
        data.classes,
        data.channels,
        auxiliary=s.auxiliary > 0,
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


def size(genotype: Genotype, data: ImageData, s: Settings) -> Row:
    """Parameters and multiply-adds of that network, without its auxiliary head.

    Raises:
        SettingsError: the images do not suit the network.
    """
    shape = (data.channels, data.image_size, data.image_size)
    with torch.device("meta"):  # shapes alone
        network = build(genotype, data, s)
        network(torch.empty(2, *shape))
    return {"parameters": count_parameters(network), "multiply_adds": multiply_adds(network, shape)}


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


def over_seeds(results: Sequence[Row], data: ImageData, s: Settings) -> Row:
    """One row of the results of all seeds.

    Args:
        results: of `retrain_seeds`.
        data: what was tested on.
        s: the settings.

    Returns:
        `test_error` and, with more than five classes, `test_error_top5`: the mean; `deviation`: of
        the test error over seeds, if there are several; `standard_error`: of one network on this
        test set; `retrain_seconds`: of all seeds; `device`.
    """
    error = spread(result["error"] for result in results)
    row: Row = {
        "test_error": error.mean,
        "standard_error": standard_error(error.mean, len(data.test)),
        "retrain_seconds": sum(result["seconds"] for result in results),
        "device": s.device,
    }
    if data.classes > 5:
        row["test_error_top5"] = spread(result["error_top5"] for result in results).mean
    if error.deviation is not None:
        row["deviation"] = error.deviation
    return row


def standard_error(error: float, images: int) -> float:
    """Of an error rate in percent measured on so many images: sqrt(p (1 - p) / n).

    Without a single error (or right answer) that would be 0, as if there were no doubt: there p is
    (errors + 1) / (n + 2) instead.
    """
    p = error / 100
    if p in (0, 1):
        p = (p * images + 1) / (images + 2)
    return 100 * (p * (1 - p) / images) ** 0.5


BASELINES = ("logistic regression", "chance")


def baselines(data: ImageData) -> list[Row]:
    """Chance, and logistic regression on raw pixels (small data sets in memory)."""
    rows: list[Row] = []
    if len(data.train) <= 10_000 and isinstance(data.train.images, torch.Tensor):
        from sklearn.linear_model import LogisticRegression

        x, test = (
            part.images.flatten(1).float() / data.normalization.pixel_max
            for part in (data.train, data.test)
        )
        model = LogisticRegression(max_iter=1000).fit(x.numpy(), data.train.labels.numpy())
        error = 100 * (1 - model.score(test.numpy(), data.test.labels.numpy()))
        rows.append(
            {
                "name": BASELINES[0],
                "test_error": error,
                "standard_error": standard_error(error, len(data.test)),
                "parameters": int(model.coef_.size + model.intercept_.size),
            }
        )
    guess = 100 * (1 - float(data.test.labels.bincount().max()) / len(data.test))
    return [*rows, {"name": BASELINES[1], "test_error": guess}]


def save_result(
    folder: RunFolder,
    example: str,
    data: ImageData,
    rows: list[Row],
    notes: Sequence[str] = (),
) -> None:
    """Write result.json."""
    several = "deviation" in rows[0]
    seeds = "The test error is the mean over seeds, the deviation is that over seeds. "
    passes = "Passes: forward passes of all networks in the whole search."
    folder.save_json(
        "result.json",
        {
            "title": f"{rows[0]['name']} on {data.name}",
            "dataset": data.name,
            "class_names": list(data.class_names),
            "rows": rows,
            "notes": [
                f"Test error on {len(data.test)} test images, touched once, after retraining from "
                f"scratch on all {len(data.train)} training images. {seeds if several else ''}The "
                "standard error is that of one network on this test set"
                + ("." if several else "; other seeds vary as well."),
                *([passes] if "passes" in rows[0] else []),
                *notes,
            ],
        },
    )


def result_table(rows: Sequence[Row], *, markdown: bool = False) -> str:
    """The rows as text, without the columns that no row fills."""
    headings = {
        "name": "",
        "search": "search",
        "passes": "network passes",
        "retraining": "retraining",
        "parameters": "parameters",
        "multiply_adds": "multiply-adds",
        "test_error": "test error, %",
        "standard_error": "standard error, %",
        "deviation": "deviation over seeds, %",
        "test_error_top5": "top-5 error, %",
    }
    shown = [
        {
            **row,
            "search": cost(row.get("search_seconds"), row.get("search_device", row.get("device"))),
            "retraining": cost(row.get("retrain_seconds"), row.get("device")),
        }
        for row in rows
    ]
    filled = {
        key: heading
        for key, heading in headings.items()
        if any(row.get(key) is not None for row in shown)
    }
    return format_table(shown, filled, markdown=markdown)


def cost(seconds: float | None, device: str | None) -> str | None:
    """GPU-days or CPU hours, as papers print them; seconds if it took less than ten minutes."""
    if seconds is None:
        return None
    if seconds < 600:
        return f"{seconds:.3g} s"
    if device and device.startswith("cuda"):
        return f"{seconds / 86400:.3g} GPU-days"
    return f"{seconds / 3600:.3g} CPU hours"
