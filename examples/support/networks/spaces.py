"""The search space that the settings name."""

from __future__ import annotations

from typing import Any

from mlopt.nas import SPACES, SearchSpace

from ..settings import Settings

#: What results call the spaces.
TITLES = {"darts": "DARTS", "p-darts": "P-DARTS", "pc-darts": "PC-DARTS", "darts-minus": "DARTS-"}


def search_space(dataset: str, s: Settings) -> SearchSpace:
    """The space at its first stage.

    Args:
        dataset: name of what is searched with, which chooses the stem unless the settings do.
        s: the settings.

    Raises:
        SettingsError: the space does not take one of its settings.
    """
    imagenet = s.form == "imagenet" or (s.form == "auto" and dataset == "imagenet")
    own: dict[str, dict[str, Any]] = {
        "p-darts": {
            "add_layers": s.add_cells,
            "add_width": (0,) * len(s.add_cells),
            "drop": s.drop,
            "skip_dropout": s.skip_dropout,
            "most_skips": None if s.most_skips < 0 else s.most_skips,
        },
        "pc-darts": {"partial": s.partial or None},
        "darts-minus": {"auxiliary": s.auxiliary_skip, "decay": s.skip_decay},
    }
    return SPACES[s.space](
        channels=s.channels,
        layers=s.cells,
        nodes=s.nodes,
        form="imagenet" if imagenet else "cifar",
        **own.get(s.space, {}),
    )
