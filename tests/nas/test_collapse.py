"""The alarms of a search: shares, weights and thresholds by hand."""

import math

import pytest
import torch
from compare import exact, rounding

import mlopt
from mlopt.nas import Architecture, derive
from mlopt.nas.collapse import Alarm, CollapseMonitor, largest_none, skip_share
from mlopt.nas.genotypes import GENOTYPES
from mlopt.nas.operations import PRIMITIVES

SKIP, NONE = PRIMITIVES.index("skip_connect"), PRIMITIVES.index("none")


def test_the_share_of_skips_of_published_cells():
    """By hand: DARTS' first-order cell keeps three skips of eight, its second-order one two."""
    assert skip_share(GENOTYPES["DARTS_V1"]) == {"normal": 0.375, "reduce": 0.375}
    assert skip_share(GENOTYPES["DARTS_V2"])["normal"] == 0.25
    assert CollapseMonitor().alarms({"skips/normal": 0.5}) == []
    assert CollapseMonitor(skips=0.2).alarms({"skips/normal": 0.25})[0].kind == "skips"


def test_the_largest_weight_on_none_is_that_of_one_edge():
    a = Architecture(nodes=2).double()
    with torch.no_grad():
        a.normal.zero_()
        a.reduce.zero_()
        a.normal[3, NONE] = math.log(7.0)  # against seven others: 7 / (7 + 7)
    # a logarithm of seven, exponentials of eight numbers, their sum, a quotient
    exact(largest_none(a), {"normal": 0.5, "reduce": 0.125}, rounding(20))
    assert largest_none(Architecture(2, ("skip_connect", "sep_conv_3x3"))) == {
        "normal": 0.0,
        "reduce": 0.0,
    }


def test_a_cell_of_skips_is_an_alarm_and_a_fresh_one_is_none():
    monitor, a = CollapseMonitor(), Architecture(nodes=4)
    with torch.no_grad():
        a.normal.zero_()
        a.normal[:, PRIMITIVES.index("sep_conv_3x3")] = 0.5
        a.reduce.copy_(a.normal)
    measures = monitor.measures(a, derive(a), 0.9, 0.4)
    assert measures["skips/normal"] == 0.0
    assert measures["gap"] == 0.9 - 0.4
    assert measures["entropy/normal"] == a.entropy()["normal"]
    assert monitor.alarms(measures) == []
    with torch.no_grad():
        a.normal[:, SKIP] = 2.0
    measures = monitor.measures(a, derive(a))
    assert measures["skips/normal"] == 1.0
    assert measures["skips/reduce"] == 0.0
    assert "gap" not in measures
    assert monitor.alarms(measures) == [
        Alarm("skips", "100% of what the normal cell keeps are skip connections")
    ]


@pytest.mark.parametrize(
    ("measures", "kinds"),
    [
        ({}, []),
        ({"skips/normal": math.nan, "gap": math.nan}, []),
        ({"skips/reduce": 1.0, "none/reduce": 1.0, "entropy/reduce": 0.0}, []),
        ({"none/normal": 0.91}, ["none"]),
        ({"none/normal": 0.89}, []),
        ({"entropy/normal": 0.09}, ["entropy"]),
        ({"entropy/normal": 0.11}, []),
        ({"gap": 1.01}, ["gap"]),
        ({"gap": -5.0}, []),
        ({"skips/normal": 0.6, "gap": 3.0}, ["skips", "gap"]),
    ],
)
def test_thresholds(measures, kinds):
    assert [alarm.kind for alarm in CollapseMonitor().alarms(measures)] == kinds


@pytest.mark.parametrize("threshold", [-0.1, math.nan])
def test_a_threshold_is_a_number_of_at_least_zero(threshold):
    with pytest.raises(mlopt.SettingsError, match="gap="):
        CollapseMonitor(gap=threshold)
