from collections.abc import Iterable

from fastonline.hotplug.machine import Machine

__all__ = ["kernel_zonelist", "movable_zonelist", "node_order"]

def node_order(mem: Machine, nid: int) -> list[int]: ...
def kernel_zonelist(mem: Machine, nid: int) -> list[int]: ...
def movable_zonelist(
    mem: Machine, nid: int, nodes: Iterable[int] | None = None, highest: str | None = None
) -> list[int]: ...
