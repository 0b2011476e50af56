"""A checkpoint that is a link, such as to a larger disk: the link stays, its file is written."""

from __future__ import annotations

import contextlib
import os

import pytest
import torch
from torch import nn

from mlopt._errors import SettingsError
from mlopt.nas import retrain

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links take rights there")
X, Y = torch.linspace(-1, 1, 12).view(6, 2), torch.arange(6) % 2


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        nn.init.constant_(self.layer.weight, 0.1)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x):
        return self.layer(x), None


def train(path, on_epoch=None):
    return retrain(Net(), [(X, Y)], epochs=2, checkpoint=path, on_epoch=on_epoch, progress=False)


@pytest.mark.parametrize("begun", [False, True])
def test_a_link_stays_and_its_file_is_written(tmp_path, begun):
    """One that leads to nothing yet, and one to a training that was interrupted."""
    link, path = tmp_path / "retrain.pt", tmp_path / "disk" / "first.pt"
    link.symlink_to(path)

    def interrupt(metrics):
        if metrics["epoch"] == 1:
            raise KeyboardInterrupt

    def refused(metrics):
        with pytest.raises(SettingsError, match="already writes to it"):
            train(path)
        seen.append(metrics["epoch"])

    seen = []
    if begun:
        with contextlib.suppress(KeyboardInterrupt):
            train(path, interrupt)
    history = train(link, refused)
    assert seen == ([1] if begun else [0, 1])
    assert link.is_symlink()
    assert train(path) == history
    there = sorted(p.name for p in tmp_path.rglob("*"))
    assert there == [".first.pt.before", "disk", "first.pt", "retrain.pt"]


def test_what_a_link_leads_to_is_refused_if_it_is_no_checkpoint(tmp_path):
    (tmp_path / "theirs").write_bytes(b"weights")
    (tmp_path / "link.pt").symlink_to("theirs")
    with pytest.raises(SettingsError, match="theirs: has no checksum"):
        train(tmp_path / "link.pt")
    assert (tmp_path / "theirs").read_bytes() == b"weights"
    (tmp_path / "circle.pt").symlink_to("circle.pt")
    with pytest.raises(SettingsError, match="circle.pt: cannot be read"):
        train(tmp_path / "circle.pt")
