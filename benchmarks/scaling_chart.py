"""The chart of the scaling benchmarks: panels of lines on logarithmic axes."""

from __future__ import annotations

from pathlib import Path

__all__ = ["chart"]

Lines = dict[str, list[tuple[float, float]]]


def chart(panels: dict[str, Lines], xlabel: str, path: Path) -> bool:
    """Draw each panel's lines against the same quantity.

    Args:
        panels: by label of the vertical axis, the points of each line by its name.
        xlabel: label of the horizontal axis.
        path: of the picture.

    Returns:
        Whether there is a picture: without matplotlib there is none, and a message.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        print(f"No chart: {error}")
        return False
    figure = Figure(figsize=(4.5 * len(panels), 4), layout="constrained")
    for axes, (ylabel, lines) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        shown = {name: points for name, points in lines.items() if points}
        for (name, points), mark in zip(shown.items(), "osDv^P", strict=False):
            hollow = name.startswith("mlopt")
            axes.plot(
                *zip(*points, strict=True), marker=mark, label=name,
                fillstyle="none" if hollow else "full", markersize=8 if hollow else 4,
            )  # fmt: skip
        ticks = sorted({x for points in shown.values() for x, _ in points})
        axes.set(xlabel=xlabel, ylabel=ylabel, yscale="log")
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.grid(linewidth=0.3)
        if shown:
            axes.legend(fontsize="small")
    with matplotlib.rc_context({"svg.hashsalt": "mlopt"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return True
