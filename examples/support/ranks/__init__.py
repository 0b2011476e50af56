"""Several processes that run one program: ranks of torch.distributed, as torchrun starts them.

Start with program.py: how they begin, agree and end. onlooker.py is the run folder of a rank that
writes nothing, for the files of a run are the first rank's.

May import: no other room.
"""

from .onlooker import Onlooker
from .program import (
    alone,
    check_joined,
    command,
    count,
    first,
    is_first,
    joined,
    leave,
    says,
    take_device,
    together,
)

__all__ = [
    "Onlooker",
    "alone",
    "check_joined",
    "command",
    "count",
    "first",
    "is_first",
    "joined",
    "leave",
    "says",
    "take_device",
    "together",
]
