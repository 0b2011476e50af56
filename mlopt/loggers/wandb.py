"""Rows of metrics for Weights & Biases."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mlopt._arguments import checked
from mlopt._errors import SettingsError
from mlopt._files import said
from mlopt.loggers.pictures import as_picture
from mlopt.loggers.rows import Status, columns_of, entries, place
from mlopt.loggers.values import from_json, to_json

__all__ = ["WandB"]


class WandB:
    """Sends rows to Weights & Biases, or keeps them in files that `wandb sync` sends later.

    Each row of `log` is one of the run's history; curves are drawn over their rows' step, or over
    the epoch of rows without one. So a run that is resumed may log a step again.

    Args:
        project: the run's.
        name: of the run; by default W&B makes one up.
        folder: in which W&B makes its own folder `wandb`; by default the current one.
        mode: "online", "offline" or "disabled"; by default what W&B's own settings say, such as the
            variable WANDB_MODE, and else online.
        config: settings of the run by name, which W&B lists and compares.
        options: further arguments of `wandb.init`, such as `group`, `tags`, `id` and `resume`.

    Raises:
        SettingsError: the package `wandb`, or `pillow` for its pictures, is not installed, or W&B
            begins no run: nobody is logged in, or it cannot be reached.
    """

    @checked(SettingsError)
    def __init__(
        self,
        project: str = "mlopt",
        *,
        name: str | None = None,
        folder: str | Path | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
        config: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        try:
            import wandb
            from PIL import Image
        except ImportError as error:
            raise SettingsError(
                f"WandB: the package {error.name} is missing; install what it needs with: "
                "pip install wandb pillow."
            ) from error
        self._wandb = wandb
        self._pillow = Image.fromarray
        if folder is not None:
            with said(folder, "written"):
                Path(folder).mkdir(parents=True, exist_ok=True)
        given = {"project": project, "name": name, "mode": mode, **options}
        try:
            self._run = wandb.init(
                dir=None if folder is None else str(folder),
                config=None if config is None else to_json(config),
                **given,
            )
        except Exception as error:  # of any of its many kinds
            shown = ", ".join(f"{k}={v!r}" for k, v in given.items() if v is not None)
            raise SettingsError(
                f"WandB({shown}): wandb.init() begins no run ({error}). Call `wandb login` once, "
                'or give mode="offline" and send the run later with `wandb sync`.'
            ) from error
        self._axes: set[str] = set()

    @checked(SettingsError)
    def log(self, row: Mapping[str, object]) -> None:
        """Add one row to the history.

        Args:
            row: names and values, as of `JsonlLogger.log`.

        Raises:
            DataError: a value is none that can be written.
        """
        self._log(row, {name: from_json(to_json(value)) for name, value in entries(row)})

    def _log(self, row: Mapping[str, Any], values: dict[str, Any]) -> None:
        by, phase = place(row), row.get("phase")
        pattern = f"{phase}/*" if phase else "*"
        if by is not None and pattern not in self._axes:
            self._axes.add(pattern)
            self._run.define_metric(by)
            self._run.define_metric(pattern, step_metric=by)
        position = {name: row[name] for name in ("step", "epoch") if row.get(name) is not None}
        self._run.log({**position, **values})

    @checked(SettingsError)
    def log_image(self, row: Mapping[str, object], name: str, image: Any) -> None:
        """Show numbers as a picture.

        Args:
            row: whose step, or epoch, it belongs to.
            name: of it.
            image: (height, width), or (channels, height, width); see `as_picture`.

        Raises:
            DataError: it has another shape.
        """
        ((full, _),) = entries({"phase": row.get("phase"), name: 0})
        self._log(row, {full: self._wandb.Image(self._pillow(as_picture(image)))})

    @checked(SettingsError)
    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Show a table.

        Args:
            name: of it.
            rows: dicts of columns; one that a row has not is empty there.

        Raises:
            DataError: a value is none that can be written.
        """
        columns, cells = columns_of(to_json(rows))
        self._run.log({name: self._wandb.Table(columns=[*columns], data=cells)})

    @checked(SettingsError)
    def log_file(self, path: str | Path) -> None:
        """Keep a file, such as a report, as an artifact of the run.

        Args:
            path: of the file, whose name without its ending is that of the artifact.

        Raises:
            SettingsError: there is no such file.
        """
        path = Path(path)
        if not path.is_file():
            raise SettingsError(f"WandB.log_file: path={str(path)!r} is no file.")
        kind = re.sub(r"[^\w.-]", "_", path.stem, flags=re.ASCII)
        artifact = self._wandb.Artifact(f"{kind}-{self._run.id}", type=kind)
        artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    @checked(SettingsError)
    def close(self, status: Status = "finished") -> None:
        """End the run at W&B; online this waits until all is sent. Closing twice is fine.

        Args:
            status: how the run ended; W&B marks it as failed unless it finished.
        """
        self._run.finish(exit_code=0 if status == "finished" else 1)
