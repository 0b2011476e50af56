"""One ridge penalty per feature against the best single one."""

import hpo_ridge


def test_ridge_penalties_beat_a_single_one():
    data = hpo_ridge.make_data()
    penalties, weights = hpo_ridge.learn_penalties(data, 80)
    _, single = hpo_ridge.best_single_penalty(data)
    assert hpo_ridge.error(data["test"], weights) < 0.5 * hpo_ridge.error(data["test"], single)
    assert penalties[hpo_ridge.RELEVANT :].mean() > 1
