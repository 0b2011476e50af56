"""The files of a run: whole or not there, checked by a sum when read, with one writer at a time."""

from .archive import OtherFormat, read_archive, write_archive
from .atomic import Damaged, is_part, read_checked, remove_parts, said, write_file
from .lock import Lock, Taken, is_taken
from .state import FINISHED, INTERRUPTED, RUNNING, read_state, write_state

__all__ = [
    "FINISHED",
    "INTERRUPTED",
    "RUNNING",
    "Damaged",
    "Lock",
    "OtherFormat",
    "Taken",
    "is_part",
    "is_taken",
    "read_archive",
    "read_checked",
    "read_state",
    "remove_parts",
    "said",
    "write_archive",
    "write_file",
    "write_state",
]
