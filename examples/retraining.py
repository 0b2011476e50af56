"""What follows a search: the derived network from scratch, its test error, and the table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from settings import Settings

from mlopt.data import ImageData, loader, standard_augmentation
from mlopt.nas import Cutout, EvaluationNetwork, Genotype, count_parameters, evaluate, retrain
from mlopt.report import RunFolder, format_table


def retrain_and_test(
    genotype: Genotype,
    data: ImageData,
    folder: RunFolder,
    s: Settings,
    learner: str,
    began: float,
) -> dict[str, Any]:
    """Train the derived network from scratch on all training images; its part of a result's row.

    Args:
        genotype: what the search found.
        data: with all training images.
        folder: of the run.
        s: the settings.
        learner: a name before the names of its metrics, empty if the search had only one.
        began: when retraining began, of those before it, too.

    Returns:
        Its parameters, and its test error with standard error in percent.
    """
    torch.manual_seed(s.seed)
    network = EvaluationNetwork(
        genotype, s.eval_channels, s.eval_cells, data.classes, data.channels, s.auxiliary > 0
    )
    batches = loader(
        data.train,
        s.eval_batch_size,
        augment=standard_augmentation(data.name, data.image_size),
        finish=Cutout(s.cutout) if s.cutout else None,
        drop_last=len(data.train) > s.eval_batch_size,
    )
    prefix = f"{learner}/" if learner else ""

    def log(metrics: dict[str, float]) -> None:
        folder.log(
            "retrain",
            epoch=int(metrics["epoch"]),
            seconds=time.perf_counter() - began,
            lr=metrics["lr"],
            **{f"{prefix}train/{name}": metrics[name] for name in ("loss", "error")},
        )

    retrain(
        network,
        batches,
        epochs=s.eval_epochs,
        lr=s.eval_lr,
        momentum=s.momentum,
        weight_decay=s.eval_weight_decay,
        clip=s.clip,
        auxiliary_weight=s.auxiliary,
        drop_path=s.drop_path,
        device=s.device,
        seed=s.seed,
        on_epoch=log,
    )
    error = evaluate(network, loader(data.test, 256, shuffle=False), s.device)["error"]
    return {
        "parameters": count_parameters(network),
        "test_error": error,
        "standard_error": standard_error(error, len(data.test)),
    }


def standard_error(error: float, images: int) -> float:
    """Of an error rate in percent measured on so many images: sqrt(p (1 - p) / n).

    Without a single error (or right answer) that would be 0, as if there were no doubt: there p is
    (errors + 1) / (n + 2) instead.
    """
    p = error / 100
    if p in (0, 1):
        p = (p * images + 1) / (images + 2)
    return 100 * (p * (1 - p) / images) ** 0.5


def baselines(data: ImageData) -> list[dict[str, Any]]:
    """Chance, and logistic regression on raw pixels (for small data sets: it takes seconds)."""
    rows: list[dict[str, Any]] = []
    if len(data.train) <= 10_000:
        from sklearn.linear_model import LogisticRegression

        x, test = (
            part.images.flatten(1).float() / data.normalization.pixel_max
            for part in (data.train, data.test)
        )
        model = LogisticRegression(max_iter=1000).fit(x.numpy(), data.train.labels.numpy())
        error = 100 * (1 - model.score(test.numpy(), data.test.labels.numpy()))
        rows.append(
            {
                "name": "logistic regression",
                "test_error": error,
                "standard_error": standard_error(error, len(data.test)),
                "parameters": int(model.coef_.size + model.intercept_.size),
            }
        )
    guess = 100 * (1 - float(data.test.labels.bincount().max()) / len(data.test))
    return [*rows, {"name": "chance", "test_error": guess}]


def save_result(
    folder: RunFolder,
    example: str,
    data: ImageData,
    rows: list[dict[str, Any]],
    notes: Sequence[str] = (),
) -> None:
    """Write result.json."""
    folder.save_json(
        "result.json",
        {
            "title": f"{rows[0]['name']} on {data.name}",
            "dataset": data.name,
            "class_names": list(data.class_names),
            "rows": rows,
            "notes": [
                f"Test error on {len(data.test)} test images, touched once, after retraining from "
                f"scratch on all {len(data.train)} training images. The standard error is that of "
                "one network on this test set; other seeds vary as well.",
                "Passes: forward passes of all networks in the whole search.",
                *notes,
            ],
        },
    )


def result_table(rows: Sequence[dict[str, Any]], *, markdown: bool = False) -> str:
    """The rows as text."""
    return format_table(
        rows,
        {
            "name": "",
            "search_seconds": "search, s",
            "passes": "network passes",
            "parameters": "parameters",
            "test_error": "test error, %",
            "standard_error": "standard error, %",
        },
        markdown=markdown,
    )
