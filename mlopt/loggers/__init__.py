"""Where the numbers of a run go: plain files and services, fed with rows of scalars.

An island: it imports nothing of mlopt but its errors, its checks and `_files`. Start reading at
`jsonl.py`.
"""

from mlopt.loggers.jsonl import JsonlLogger, from_json, read_jsonl, to_json

__all__ = ["JsonlLogger", "from_json", "read_jsonl", "to_json"]
