"""What any result is compared with."""

from __future__ import annotations

import torch

from mlopt.data import ImageData

from .rows import Row, standard_error

BASELINES = ("logistic regression", "chance")


def baseline_rows(data: ImageData) -> list[Row]:
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
