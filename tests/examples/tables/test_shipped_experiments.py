"""The tables that there are, and two cells of one for real."""

import itertools

import pytest
import torch
from examples.tables.experiment_runs import make, read

import experiments
import lfm_cw_darts
from support import pipeline
from support.data import load_data
from support.networks import make_players, search_space
from support.settings import Settings
from support.tables import RUNNABLE, reading

SHIPPED = reading.table_names()


def test_a_row_may_run_what_the_program_can_start():
    assert {*experiments.SCHEMES, "evaluate"} == set(RUNNABLE)


def settings_of(table, preset, folder):
    lines = experiments.make(table, preset, folder=folder).lines
    return {line.row.name: line.cells[0].s for line in lines}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_tables(name, tmp_path):
    table = reading.read_table(name)
    papers = name not in ("matrix", "fashion")
    assert any(row.published for row in table.rows) == papers
    datasets = set()
    for preset in reading.PRESETS:
        experiment = experiments.make(name, preset, folder=tmp_path)
        assert not (preset == "quick" and experiment.comparable)
        if preset == "paper" and papers:
            assert experiment.comparable
            assert [cell.s.seed for cell in experiment.lines[0].cells] in ([0], [*range(1, 11)])
        datasets |= {line.cells[0].s.dataset for line in experiment.lines if preset == "quick"}
    assert datasets == {"fashion-mnist" if name == "fashion" else "digits"}


def test_the_matrix_has_every_scheme_on_every_space(tmp_path):
    experiment = experiments.make("matrix", folder=tmp_path)
    found = [
        (line.row.example, line.cells[0].s.space, line.cells[0].s.order)
        for line in experiment.lines
    ]
    bases = [
        ("darts", "first"), ("darts", "second"), ("p-darts", "first"), ("pc-darts", "first"),
        ("darts-minus", "first"),
    ]  # fmt: skip
    schemes = ["darts", "lfm_cw_darts", "sgl_darts"]
    expected = [(scheme, *base) for base, scheme in itertools.product(bases, schemes)]
    assert found == expected
    assert len({line.cells[0].folder for line in experiment.lines}) == 15


def test_the_ablations(tmp_path):
    values = [s.lambda_ for s in settings_of("ablation-lambda", "quick", tmp_path).values()]
    assert values == [0.1, 0.5, 1.0, 2.0, 3.0] * 2
    only = [s.synthetic_only for s in settings_of("ablation-synthetic", "quick", tmp_path).values()]
    assert only == [True, False] * 2
    generators = settings_of("ablation-generator", "paper", tmp_path)
    assert [s.generator for s in generators.values()] == ["dcgan", "wgan-gp", "biggan"]
    assert {s.order for s in generators.values()} == {"first"}


def test_tables_share_the_runs_that_they_have_in_common(tmp_path):
    def folder(table, row):
        lines = experiments.make(table, "paper", folder=tmp_path).lines
        return next(line.cells[0].folder for line in lines if line.row.name == row)

    shared = folder("lfm-cw-cifar10", "lfm-cw-darts-1st")
    assert folder("ablation-lambda", "darts-1st-1") == shared
    assert folder("ablation-synthetic", "darts-1st-both") == shared
    assert folder("ablation-generator", "biggan") == shared
    assert folder("ablation-lambda", "darts-1st-2") != shared
    plain = folder("lfm-cw-cifar100", "p-darts")
    assert folder("sgl-cifar100", "p-darts") == plain != shared


@pytest.mark.parametrize("row", ["dcgan", "wgan-gp", "biggan"])
def test_the_quick_generators_draw_digits(row, tmp_path):
    s = settings_of("ablation-generator", "quick", tmp_path)[row]
    data = load_data(s)
    generator, _ = make_players(search_space(data.name, s), data, s)
    assert generator(torch.tensor([0, 1])).shape == (2, 1, 8, 8)


# For real.

TINY = {
    "channels": 4, "nodes": 1, "cells": 1, "epochs": 1, "generator_epochs": 0, "noise": 4,
    "generator_width": 2, "batch_size": 24, "train_images": 64, "eval_channels": 2,
    "eval_cells": 1, "eval_epochs": 1,
}  # fmt: skip


def test_two_real_cells(tmp_path, tables):
    given = {**TINY, "product": "exact"}
    experiment = make(tmp_path, seeds=[3], given=given)
    assert experiments.run(experiment) == 0
    cells = [line.cells[0] for line in experiment.lines]
    results = [cell.result() for cell in cells]
    assert [row["test_error"] for row in read(experiment)["rows"]] == [
        result["test_error"] for result in results
    ]
    page = (experiment.root / "page.html").read_text()
    assert page.count("data:image/svg+xml") == 3  # the chart and two rows' cells
    assert page.count("data:image/png") == 1
    assert 'class="pixels"' in page

    # What came before it in the process changes nothing of a cell.
    alone = Settings(**{**vars(cells[1].s), "run_folder": str(tmp_path / "alone")})
    torch.manual_seed(99)
    row = pipeline.run("lfm_cw_darts", lfm_cw_darts.scheme, alone)[0]
    assert row["test_error"] == results[1]["test_error"]
    found = [(path / "genotype.json").read_text() for path in (cells[1].folder, tmp_path / "alone")]
    assert found[0] == found[1]
