"""Where the numbers of a run go: plain files, the console and services, fed with rows of metrics.

A logger has two methods, `log(row)` and `close(status)`, and those of these three that make sense
for it: `log_image(row, name, image)`, `log_table(name, rows)` and `log_file(path)`. A row
is a dict of names and values with its "step" and "epoch"; a status is "finished", "interrupted" or
"failed". `Engine.run(loggers=[...])` takes anything that has the two.

An island: it imports nothing of mlopt but its errors, its checks and `_files`. Start reading at
`jsonl.py`; `values.py` says what a row can hold, `rows.py` how the others name what is in it.
"""

from mlopt.loggers.console import Console
from mlopt.loggers.jsonl import JsonlLogger, read_jsonl
from mlopt.loggers.several import Several
from mlopt.loggers.tensorboard import TensorBoard
from mlopt.loggers.values import from_json, to_json
from mlopt.loggers.wandb import WandB

__all__ = [
    "Console",
    "JsonlLogger",
    "Several",
    "TensorBoard",
    "WandB",
    "from_json",
    "read_jsonl",
    "to_json",
]
