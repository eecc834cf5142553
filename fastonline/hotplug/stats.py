"""Memory.stats: exact counts of what a machine has done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from fastonline.record import Record


class Stats(Record):
    """Exact counts since the machine was made, as attributes and as keys. Boot memory is not counted.

    - frees, allocations: list by order, blocks freed and allocated. merges: pairs merged out of the order. splits: blocks of
      the order split.
    - pages_onlined, pages_offlined: pages. pages_migrated: pages that offline_pages moved; balloon_migrated: those of balloons.
    - notifications: calls of the notifier chain, whether anybody listens or not.
    - watermark_recomputations; pageblocks_scanned: by them (setup_zone_migrate_reserve, 2.6.25).
    - zonelist_builds; bytes_touched: bytes of page state written.
    """

    __slots__ = ()

    frees: list[int]
    allocations: list[int]
    merges: list[int]
    splits: list[int]
    pages_onlined: int
    pages_offlined: int
    pages_migrated: int
    balloon_migrated: int
    notifications: int
    watermark_recomputations: int
    pageblocks_scanned: int
    zonelist_builds: int
    bytes_touched: int

    if TYPE_CHECKING:       # a misspelt key is an error, as a misspelt attribute is

        @overload  # type: ignore[override]
        def __getitem__(self, key: Literal["frees", "allocations", "merges", "splits"], /) -> list[int]: ...
        @overload
        def __getitem__(
            self,
            key: Literal[
                "pages_onlined", "pages_offlined", "pages_migrated", "balloon_migrated", "notifications",
                "watermark_recomputations", "pageblocks_scanned", "zonelist_builds", "bytes_touched",
            ],
            /,
        ) -> int: ...
        def __getitem__(self, key: str, /) -> Any: ...
