"""A row of a result: the test error over seeds, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlopt.data import ImageData
from mlopt.nas import spread

from ..settings import Settings

Row = dict[str, Any]


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
