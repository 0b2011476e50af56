"""The files of a run: whole or not there, checked by a sum when read, with one writer at a time."""

from .archive import OtherFormat, read_archive, write_archive
from .atomic import Damaged, is_part, read_checked, remove_parts, said, write_file
from .lock import Lock, Taken, is_taken

__all__ = [
    "Damaged",
    "Lock",
    "OtherFormat",
    "Taken",
    "is_part",
    "is_taken",
    "read_archive",
    "read_checked",
    "remove_parts",
    "said",
    "write_archive",
    "write_file",
]
