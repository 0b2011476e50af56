"""Arguments are checked where they are given: types by the annotations, ranges beside them.

    @checked(SettingsError, steps=from_one, loss=one_of(LOSSES))
    def train(steps: int, loss: str = "hinge", device: str | None = None) -> None: ...

    @dataclass(frozen=True)
    class CG:
        max_steps: int = 20
        tol: float = 1e-6

        def __post_init__(self) -> None:
            check_fields(self, GraphError, max_steps=from_one, tol=within("[0, 1)"))

A limit holds for every number or string of its argument, in a tuple as well. NumPy's numbers are
numbers, and so is a tensor of one; a bool is none, and not-a-number is in no range. What arguments
mean together is checked by whoever takes them.

Imports nothing of mlopt. Start reading at `checked.py`.
"""

from .calls import stateful, takes
from .checked import check_fields, checked, shown, take
from .limits import a_device, a_seed, from_one, from_zero, in_body, one_of, positive, within

__all__ = [
    "a_device",
    "a_seed",
    "check_fields",
    "checked",
    "from_one",
    "from_zero",
    "in_body",
    "one_of",
    "positive",
    "shown",
    "stateful",
    "take",
    "takes",
    "within",
]
