"""A small table, and what stands for its runs."""

import json

import experiments
from mlopt.nas import GENOTYPES
from mlopt.report import RunFolder
from support import pipeline

TABLE = """
title = "A table"
source = "A paper, Table 1"
seeds.quick = [0, 1, 2]
settings.order = "first"
quick.dataset = "digits"

[[rows]]
name = "plain"
label = "DARTS-1st"
example = "darts"
settings.dataset = "cifar10"
published = 3.00
published_deviation = 0.14

[[rows]]
name = "lfm"
label = "LFM-CW"
example = "lfm_cw_darts"
settings.lambda_ = 2
settings.dataset = "cifar10"
quick.epochs = 7
"""


class Runs:
    """Stands for `pipeline.run`: writes a run folder; the error is decided by row and seed."""

    def __init__(self):
        self.made = []
        self.resumed = []
        self.errors = {}  # (example, seed): test error, or an exception

    def __call__(self, example, scheme, s, *, resume=False):
        self.made.append((example, s.seed))
        self.resumed.append(resume)
        assert scheme is experiments.SCHEMES[example]
        settings = {"example": example, **vars(s)}
        with pipeline.open_run(
            s.run_path(example), settings, resume=resume, overwrite=s.overwrite
        ) as folder:
            error = self.errors.get((example, s.seed), 1.0)
            if isinstance(error, BaseException):
                raise error
            folder.path("genotype.json").write_text(GENOTYPES["DARTS_V1"].to_json())
            row = {
                "name": example, "test_error": error, "parameters": 100 + s.seed,
                "device": s.device, "search_seconds": 3600.0 * (1 + s.seed),
                "retrain_seconds": 30.0,
            }  # fmt: skip
            folder.save_json("result.json", {"rows": [row, {"name": "chance", "test_error": 90.0}]})
        return [row]


class Evaluations:
    """Stands for `evaluate.run`."""

    def __init__(self):
        self.made = []
        self.interrupt = False

    def __call__(self, genotype, s, resume=False):
        self.made.append((genotype, s.seed, resume))
        settings = {"example": "evaluate", **vars(s)}
        folder = (
            RunFolder.open(s.run_folder)
            if resume
            else RunFolder.create(s.run_folder, settings, overwrite=s.overwrite)
        )
        folder.path("genotype.json").write_text(GENOTYPES["DARTS_V1"].to_json())
        if self.interrupt:
            raise KeyboardInterrupt
        row = {"name": "x", "test_error": 5.0, "device": "cuda", "search_seconds": 864000.0,
               "search_device": "cuda"}  # fmt: skip
        folder.save_json("result.json", {"rows": [row]})


TRANSFER = """
title = "Transfer"
settings.dataset = "cifar100"
quick.dataset = "digits"

[[rows]]
name = "found"
label = "The cell of LFM-CW"
example = "evaluate"
genotype = "t/lfm"

[[rows]]
name = "published"
label = "DARTS"
example = "evaluate"
genotype = "DARTS_V2"
"""


def make(tmp_path, table="t", preset="quick", **more):
    return experiments.make(table, preset, folder=tmp_path / "out", **more)


def read(experiment):
    return json.loads((experiment.root / "table.json").read_text())


# Seed by seed, so that a table that is not finished compares all rows.
ALL = [(example, seed) for seed in range(3) for example in ("darts", "lfm_cw_darts")]
