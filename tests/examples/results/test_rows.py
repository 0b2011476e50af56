"""A row of a result, and how it is printed."""

import pytest

from support.results import cost, standard_error


def test_the_standard_error_is_never_zero():
    assert standard_error(2.0, 400) == pytest.approx(0.7)
    assert standard_error(0.0, 98) == pytest.approx(100 * (0.01 * 0.99 / 98) ** 0.5)
    assert standard_error(100.0, 98) == pytest.approx(standard_error(0.0, 98))


def test_cost_as_papers_print_it():
    assert cost(None, "cpu") is None
    assert cost(12.34, "cuda") == "12.3 s"
    assert cost(5400, "cpu") == "1.5 CPU hours"
    assert cost(5400, None) == "1.5 CPU hours"
    assert cost(21600, "cuda:0") == "0.25 GPU-days"
