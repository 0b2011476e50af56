"""One ridge penalty per feature against the best single one."""

import sys

import pytest

import hpo_ridge
import mlopt


def test_ridge_penalties_beat_a_single_one():
    data = hpo_ridge.make_data()
    penalties, weights = hpo_ridge.learn_penalties(data, 80)
    _, single = hpo_ridge.best_single_penalty(data)
    assert hpo_ridge.error(data["test"], weights) < 0.5 * hpo_ridge.error(data["test"], single)
    assert penalties[hpo_ridge.RELEVANT :].mean() > 1


@pytest.mark.parametrize("same", [True, False])
def test_that_it_can_be_resumed_is_verified(same, monkeypatch, capsys, tmp_path):
    if not same:
        found = mlopt.Resumption(4, 2, "step 3: w differs")
        monkeypatch.setattr(mlopt, "verify_resume", lambda *arguments: found)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hpo_ridge.py", "--verify-resume"])
    with pytest.raises(SystemExit, match="0" if same else "1"):
        hpo_ridge.program(hpo_ridge.main)
    assert ("to the bit" in capsys.readouterr().out) is same
    assert not list(tmp_path.iterdir())
