"""A row of a result, and how it is printed."""

from compare import exact, rounding

from support.results import cost, result_table, standard_error


def test_the_standard_error_is_never_zero():
    bound = rounding(60)  # a few products, quotients and a root
    exact(standard_error(2.0, 400), 0.7, bound)
    exact(standard_error(0.0, 98), 100 * (0.01 * 0.99 / 98) ** 0.5, bound)
    exact(standard_error(100.0, 98), standard_error(0.0, 98), bound)


def test_cost_as_papers_print_it():
    assert cost(None, "cpu") is None
    assert cost(12.34, "cuda") == "12.3 s"
    assert cost(5400, "cpu") == "1.5 CPU hours"
    assert cost(5400, None) == "1.5 CPU hours"
    assert cost(21600, "cuda:0") == "0.25 GPU-days"
    assert cost(21600, "cuda:0", ranks=8) == "2 GPU-days"
    assert cost(5400, "cpu", ranks=2) == "3 CPU hours"
    assert cost(12.34, "cuda", ranks=2) == "12.3 s"


def test_the_table_counts_the_time_of_all_ranks():
    row = {"name": "a search", "device": "cuda", "search_seconds": 21600.0, "search_ranks": 8}
    assert "2 GPU-days" in result_table([row])
