"""The tables and runs of the tests of examples/experiments.py serve here, too."""

from examples.tables.conftest import evaluations, runs, tables

__all__ = ["evaluations", "runs", "tables"]
