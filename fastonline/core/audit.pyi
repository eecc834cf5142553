from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastonline.core.engine import Engine

__all__ = ["REASONS", "audit_pages"]

def audit_pages(engine: Engine, spans: list[tuple[int, int]], section_shift: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Look at every page of the (start_pfn, nr_pages) `spans`, which are whole sections of 2^section_shift pages."""

REASONS: tuple[str, ...]
SECTION: np.dtype[Any]
TALLY: np.dtype[Any]
