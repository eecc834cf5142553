"""For tests of your own allocator, simulator or embedding program against this one.

`Reference` is the slow machine that fastonline's own tests use: the same calls as `Memory`, plain Python inside. `Walk` (in
`fastonline.testing.walk`, which needs hypothesis) is a state machine that calls a machine of yours side by side with `Memory`
and the reference. The small geometries keep a walk fast. A test of an embedding program takes ten lines::

    from fastonline.testing.walk import Walk

    class MyWalk(Walk):
        def subjects(self, boot):
            return [MyMachine(self.geometry, boot)]      # the methods of Memory that it has are called on it too

        def check(self, mine):
            assert mine.totalram_pages == self.bitmap.totalram_pages

    TestMyMachine = MyWalk.TestCase
"""

from fastonline.testing.geometries import (
    GUEST_64,
    GUEST_PAE,
    SMALL_64,
    SMALL_64K,
    SMALL_BORDERS,
    SMALL_BORDERS_PAE,
    SMALL_ORDER_7,
    SMALL_PAE,
)
from fastonline.testing.reference import Reference

__all__ = [
    "GUEST_64", "GUEST_PAE", "SMALL_64", "SMALL_64K", "SMALL_BORDERS", "SMALL_BORDERS_PAE", "SMALL_ORDER_7", "SMALL_PAE",
    "Reference",
]
