import numpy as np
from numpy.typing import NDArray

from fastonline.hotplug.machine import Machine

__all__ = ["largest_blocks", "valid_zones"]

def valid_zones(mem: Machine, block_nr: int) -> str: ...
def largest_blocks(mem: Machine, z: int) -> NDArray[np.int64]: ...
