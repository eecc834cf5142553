"""The cost in virtual time of a guest's calls to the host, and the frames that it holds meanwhile."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

CALLS = ("populate_physmap", "decrease_reservation", "update_va_mapping", "touch", "discard", "essa", "host_message")
"""The calls that a Domain counts. "touch" is a page fault that the host serves, "discard" is madvise or an inflate message of a
balloon, "host_message" is a round trip over a bus."""

Price = float | tuple[float, float, float]
"""ns of a call, or (ns of a call, ns of each frame, ns of each touched frame)."""


def check_prices(prices: float | Mapping[str, Price]) -> dict[str, tuple[float, float, float]]:
    """{call: (ns of a call, ns of each frame, ns of each touched frame)} for all of CALLS.

    prices: one number for every call, or a dict by call; calls that it leaves out cost nothing. ValueError for an unknown call,
    a price that is not one or three numbers, and a number that is negative, infinite or NaN.
    """
    if not isinstance(prices, Mapping):
        prices = dict.fromkeys(CALLS, prices)
    checked = dict.fromkeys(CALLS, (0.0, 0.0, 0.0))
    for name, price in prices.items():
        if name not in CALLS:
            raise ValueError(f"unknown call {name!r} (expected one of {', '.join(CALLS)})")
        parts = tuple(price) if isinstance(price, (tuple, list)) else (price, 0, 0)
        if len(parts) != 3 or not all(isinstance(ns, numbers.Real) and 0 <= ns < float("inf") for ns in parts):
            raise ValueError(f"{name} cannot cost {price!r} ns: expected a number from 0 on, or three of them")
        checked[name] = parts
    return checked


class Priced(Protocol):
    """Anything with prices, such as a Host."""

    prices: dict[str, tuple[float, float, float]]
    """The prices, as check_prices returns them."""


class Account:
    """The calls of a guest, its clock, and how many frames it holds over time. host: whose prices they have."""

    host: Priced

    def __init__(self) -> None:
        self._tot_pages = 0
        self._peak_pages = 0
        self.calls = dict.fromkeys(CALLS, 0)
        """{call: times}"""
        self.frames = dict.fromkeys(CALLS, 0)
        """{call: frames in all such calls}"""
        self.ns: float = 0
        """The cost of all calls, ns."""
        self.now = 0.0
        """The guest's clock, virtual s. The cost of its calls advances it, and driver.run sets it to the time of the driver's
        work. It never goes back."""
        self.page_seconds = 0.0
        """Integral of tot_pages over the clock, pages times s."""

    @property
    def tot_pages(self) -> int:
        """The current reservation, pages."""
        return self._tot_pages

    @property
    def peak_pages(self) -> int:
        """The largest reservation since reset_peak, pages."""
        return self._peak_pages

    def count(self, name: str, nr: int = 1, frames: int = 0, touched: int = 0) -> None:
        """Count `nr` calls of `name` for `frames` frames, and advance the clock by their cost. touched: of the frames, those
        taken from the guest after it wrote to them."""
        self.calls[name] += nr
        self.frames[name] += frames
        ns = self.cost(name, nr, frames, touched)
        if ns:
            self.ns += ns
            self.wait(ns / 1e9)

    def cost(self, name: str, nr: Any = 1, frames: Any = 0, touched: Any = 0) -> Any:
        """Return the cost, ns, of `nr` calls of `name` for `frames` frames, `touched` of them as for count. Arrays of numbers
        give an array."""
        per_call, per_frame, per_touched = self.host.prices[name]
        return nr * per_call + frames * per_frame + touched * per_touched

    def wait(self, seconds: float) -> None:
        """Advance the guest's clock by `seconds`, at least 0."""
        if not seconds >= 0:
            raise ValueError(f"{seconds} s: the guest's clock never goes back")
        self.page_seconds += self._tot_pages * seconds
        self.now += seconds

    def wait_until(self, now: float) -> None:
        """Advance the guest's clock to at least `now`, s."""
        if now > self.now:
            self.page_seconds += self._tot_pages * (now - self.now)
            self.now = now

    def reset_peak(self) -> int:
        """Reset peak_pages to the present size, and return the old peak."""
        peak, self._peak_pages = self._peak_pages, self._tot_pages
        return peak

    def _grow(self, frames):
        self._tot_pages += frames
        if self._tot_pages > self._peak_pages:
            self._peak_pages = self._tot_pages

    def _count_calls(self, name, nr_frames, batch, mapped):
        """`count` for every batch and its mapping in turn. It adds in the order of the calls, so that rounding is the same."""
        if not nr_frames:
            return
        first = np.arange(0, nr_frames, batch)
        frames = np.full(first.size, batch)
        frames[-1] = nr_frames - first[-1]
        maps = np.zeros_like(first) if mapped is None else np.add.reduceat(mapped, first, dtype=np.int64)
        grows = name == "populate_physmap"
        after = self._tot_pages + np.cumsum(frames if grows else -frames)
        calls = self.cost(name, 1, frames, 0 if grows else frames)
        links = self.cost("update_va_mapping", maps, maps)
        if calls.any() or links.any():
            # ns, page_seconds and now: the start, then what each call and its mapping add
            sums = np.empty((3, 1 + 2 * first.size))
            sums[:, 0] = self.ns, self.page_seconds, self.now
            sums[0, 1::2], sums[0, 2::2] = (calls, links) if grows else (links, calls)
            sums[2, 1:] = sums[0, 1:] / 1e9
            sums[1, 1::2], sums[1, 2::2] = after if grows else after + frames, after
            sums[1, 1:] *= sums[2, 1:]
            self.ns, self.page_seconds, self.now = np.add.accumulate(sums, axis=1)[:, -1].tolist()
        self.calls[name] += first.size
        self.frames[name] += nr_frames
        self.calls["update_va_mapping"] += int(maps.sum())
        self.frames["update_va_mapping"] += int(maps.sum())
        self._tot_pages = int(after[-1])
        self._peak_pages = max(self._peak_pages, self._tot_pages)
