from typing import Any

from numpy.typing import NDArray

from fastonline.hotplug.machine import Machine

__all__ = ["check_engine", "check_machine", "check_saved"]

def check_machine(mem: Machine) -> None:
    """Check every invariant of a machine from scratch. AssertionError with the first that is broken."""

def check_saved(mem: Machine) -> None:
    """Check what a state that was saved must have too: no memmap lies in free pages, or in another's. AssertionError naming
    one that does."""

def check_engine(mem: Machine) -> tuple[NDArray[Any], NDArray[Any]]:
    """Check that every page is in a state that there is, and that the engine's counters, free blocks and lists are those that
    the pages make up."""
