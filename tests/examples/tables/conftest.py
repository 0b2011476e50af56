"""Tables and runs of the tests of examples/experiments.py."""

import pytest
from examples.tables.experiment_runs import TABLE, TRANSFER, Evaluations, Runs

import evaluate
from support import pipeline
from support.tables import reading


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """A folder of tables with one table "t"; returns how to write another."""
    folder = tmp_path / "experiments"
    folder.mkdir()
    monkeypatch.setattr(reading, "TABLES", folder)

    def write(text, name="t"):
        (folder / f"{name}.toml").write_text(text)

    write(TABLE)
    return write


@pytest.fixture
def runs(tables, monkeypatch):
    found = Runs()
    monkeypatch.setattr(pipeline, "run", found)
    return found


@pytest.fixture
def evaluations(tables, monkeypatch):
    found = Evaluations()
    tables(TRANSFER, "transfer")
    monkeypatch.setattr(evaluate, "run", found)
    return found
