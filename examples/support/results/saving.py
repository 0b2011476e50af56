"""result.json: the rows of a run, and what a reader must know of them."""

from __future__ import annotations

from collections.abc import Sequence

from mlopt.data import ImageData
from mlopt.report import RunFolder

from .rows import Row


def save_result(
    folder: RunFolder,
    data: ImageData,
    rows: list[Row],
    notes: Sequence[str] = (),
) -> None:
    """Write result.json."""
    several = "deviation" in rows[0]
    seeds = "The test error is the mean over seeds, the deviation is that over seeds. "
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
                *notes,
            ],
        },
    )
