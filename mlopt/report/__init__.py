"""The folder of a run, tables of results, and a report that a person can read.

An island: it imports nothing of mlopt but its errors, its checks, `_files` and `loggers`.
Start reading at `run_folder.py`, then `html.py`.
"""

from mlopt.report.comparison import write_comparison
from mlopt.report.html import write_report
from mlopt.report.run_folder import RunFolder
from mlopt.report.table import format_table

__all__ = ["RunFolder", "format_table", "write_comparison", "write_report"]
