"""Search spaces, one a file, all with the interface of `mlopt.nas.SearchSpace`.

Imports `nas` alone. Start reading at `darts.py`.
"""

from __future__ import annotations

from mlopt.nas.space import SearchSpace
from mlopt.nas.spaces.darts import DARTS
from mlopt.nas.spaces.darts_minus import DARTSMinus
from mlopt.nas.spaces.p_darts import PDARTS
from mlopt.nas.spaces.pc_darts import PCDARTS

__all__ = ["DARTS", "PCDARTS", "PDARTS", "SPACES", "DARTSMinus"]

SPACES: dict[str, type[SearchSpace]] = {
    "darts": DARTS,
    "p-darts": PDARTS,
    "pc-darts": PCDARTS,
    "darts-minus": DARTSMinus,
}
"""Search spaces by name."""
