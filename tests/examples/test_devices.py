"""The examples keep all they make on the device that they are given."""

from __future__ import annotations

import pytest
from examples.small_runs import ready
from no_values import values_asked_for

import lfm_cw_darts
import sgl_darts


@pytest.mark.parametrize(
    ("example", "more"),
    [
        (lfm_cw_darts, ()),
        (lfm_cw_darts, ("--discriminator", "own", "--ema", "0.9", "--images-per-class", "1")),
        pytest.param(sgl_darts, (), marks=pytest.mark.slow),  # no state, no constants
    ],
    ids=["lfm_cw", "lfm_cw, options", "sgl"],
)
def test_a_step_mixes_no_devices(example, more, tmp_path, monkeypatch):
    values_asked_for(monkeypatch)
    search, *_ = ready(tmp_path, example, "--device", "meta", "--batch-size", "8", *more)
    if more:  # the check before a first step takes most of it, and asks the same of other nodes
        monkeypatch.setattr(search.engine, "_check", lambda: None)
    assert search.engine.step()
