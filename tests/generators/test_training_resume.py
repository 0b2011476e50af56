"""A training of a GAN that is killed is resumed to the end of one that is not, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from children import killed_at
from small import assert_same

from mlopt._errors import SettingsError
from mlopt.data import load, loader, search_split
from mlopt.generators import GANS, ExponentialAverage, make_gan, train_gan

FILES = ("mlopt/_files.py", "generators/training_checkpoint.py", "generators/training.py")
SMALL = {"dcgan": 4, "wgan-gp": 2, "biggan": 2}


class Training:
    """Seven steps on shuffled digits, logged and saved after every second one."""

    def __init__(self, family: str, path: Path | None, falls: int = 0, **options: Any) -> None:
        torch.manual_seed(3)
        self.logged: dict[int, dict[str, float]] = {}

        def log(step: int, losses: dict[str, float]) -> None:
            self.logged[step] = losses
            if step == falls:  # before it is saved
                raise KeyboardInterrupt

        self.g, self.d = make_gan(family, 8, 1, 10, z=4, width=SMALL[family])
        self.average = ExponentialAverage(self.g, 0.5, start=2)
        images = search_split(load("digits"))[0].take(torch.arange(40))
        self.losses = train_gan(
            self.g, self.d, loader(images, 8), options.pop("steps", 7), average=self.average,
            checkpoint=path, on_log=log, log_every=2,
            **GANS[family].training() | {"decay": "linear", "d_steps": 2} | options,
        )  # fmt: skip

    def outcome(self) -> dict[str, Any]:
        return {
            "g": dict(self.g.state_dict()),
            "d": dict(self.d.state_dict()),
            "average": dict(self.average.module.state_dict()),
            "losses": self.losses,
            "next": torch.rand(3),
        }


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize(("first", "more"), [(90, 90), pytest.param(3, 17, marks=pytest.mark.slow)])
def test_killed_again_and_again(tmp_path: Path, family: str, first: int, more: int) -> None:
    whole = Training(family, None)
    expected, line, kills = whole.outcome(), first, 0
    path = tmp_path / "gan.pt"
    while killed_at(line, FILES, lambda: Training(family, path)):
        line, kills = line + more, kills + 1
    assert kills
    again = Training(family, path)
    assert_same(expected, again.outcome())
    assert not again.logged  # it was over
    assert [p.name for p in tmp_path.iterdir()] == ["gan.pt"]


def test_what_was_logged_before_is_the_same(tmp_path: Path) -> None:
    whole = Training("dcgan", tmp_path / "whole.pt")
    assert list(whole.logged) == [2, 4, 6, 7]
    with pytest.raises(KeyboardInterrupt):
        Training("dcgan", tmp_path / "gan.pt", falls=6)
    rest = Training("dcgan", tmp_path / "gan.pt")
    assert_same(rest.logged, {step: whole.logged[step] for step in (6, 7)})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lr": 0.5}, "with lr=.* not 0.5"),
        ({"steps": 9}, "with steps=7, not 9"),
        ({"family": "biggan"}, "is the checkpoint of a training with"),
    ],
)
def test_another_training_is_refused(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    Training("dcgan", tmp_path / "gan.pt")
    with pytest.raises(SettingsError, match=text):
        Training(**{"family": "dcgan", "path": tmp_path / "gan.pt", **options})


@pytest.mark.parametrize("harm", [lambda data: data[:-7], lambda data: b"x" + data[1:]])
def test_a_damaged_file_is_refused(tmp_path: Path, harm: Any) -> None:
    path = tmp_path / "gan.pt"
    Training("dcgan", path)
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(SettingsError, match=r"gan\.pt: (is damaged|has no checksum)"):
        Training("dcgan", path)
