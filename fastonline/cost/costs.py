"""Costs in virtual time: tables of published figures, each with its source.

A call to the host costs ``call + frame * frames + touched * touched frames`` nanoseconds (`Price`). The prices of a call depend
on the mechanism that makes it: "xen", "balloon", "balloon-huge", "virtio-mem", "shared", "reporting", "kvm", "cmm2". What the
guest does itself has prices of its own. A figure that was measured from end to end holds the guest's part too; then the
guest's prices do not count again (`Costs.end_to_end`).

A constant without a published figure is an assumption, and `Price.assumed` says so. Scenarios replace any constant by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from fastonline.errors import invalid_name

_HYPERALLOC = "HyperAlloc, EuroSys'25, raw data of luhsra/hyperalloc-bench: 20 -> 2 -> 20 GiB"
_LI_WANG = "Li and Wang, lkml July 2017 (1707.3/04371): 7 GiB of an idle 8 GiB guest in 4126 ms"
_FAULT = "host page fault of a microVM, anonymous memory: firecracker pull request 4820"
_PAGES_18G = 18 << 18


@dataclass(frozen=True)
class Price:
    """The cost of a call, of each of its frames, and of each frame that the guest has touched: ns."""

    call: float = 0.0
    frame: float = 0.0
    touched: float = 0.0
    source: str = ""
    assumed: bool = False
    """Whether the number is an assumption without a published figure. A scenario may replace it."""

    @property
    def free(self) -> bool:
        """Return whether the cost is zero."""
        return not (self.call or self.frame or self.touched)


@dataclass(frozen=True)
class Costs:
    """A table of prices. `host`: {mechanism: {call: Price}}; `guest`: {what: Price}; `end_to_end`: the mechanisms whose host
    prices hold the guest's part."""

    name: str
    host: Mapping[str, Mapping[str, Price]]
    guest: Mapping[str, Price]
    end_to_end: frozenset[str] = frozenset()

    def prices(self, mechanism: str) -> dict[str, tuple[float, float, float]]:
        """{call: (ns per call, ns per frame, ns per touched frame)} of a mechanism, as Host takes it."""
        return {call: (price.call, price.frame, price.touched) for call, price in self.host[mechanism].items()}

    def guest_prices(self, mechanism: str) -> Mapping[str, Price]:
        """The guest's prices beside those of `mechanism`: all free where the mechanism's figures were taken from end to end."""
        return _FREE_GUEST if mechanism in self.end_to_end else self.guest


def _measured(what: str, untouched: float, touched: float = 0.0, pages: int = 1) -> Price:
    """The price of a frame from the ns that `pages` of them took, untouched and touched."""
    return Price(frame=untouched / pages, touched=max(0.0, touched - untouched) / pages, source=f"{what}: {_HYPERALLOC}")


def _assume(why: str, call: float = 0.0, frame: float = 0.0) -> Price:
    return Price(call, frame, source=f"assumption: {why}", assumed=True)


_FREE = Price()
_TOUCH = Price(frame=2930, source=_FAULT)
_POPULATE = _assume("no price of an extent of Xen was found; a frame as a host page fault of firecracker", 500, 2930)
_DECREASE = _assume("no price of an extent of Xen was found; a frame as translation and madvise of Li and Wang", 500, 564)
_MAP = _assume("no price of HYPERVISOR_update_va_mapping was found", 500)
_MESSAGE = _assume("no price of a message over a bus was found", 10_000)
_ESSA = _assume("no price of ESSA was found", 100)

_XEN = {"populate_physmap": _POPULATE, "decrease_reservation": _DECREASE, "update_va_mapping": _MAP, "host_message": _MESSAGE}

PUBLISHED = Costs(
    "published",
    host={
        "xen": _XEN,
        "balloon": {
            "discard": _measured("virtio-balloon, 4 KiB, shrink", 2537, 4448),
            "host_message": _measured("virtio-balloon, 4 KiB, grow", 1810),
            "touch": _measured("virtio-balloon, 4 KiB, first touch", 3773),
        },
        "balloon-huge": {
            "discard": _measured("virtio-balloon, 2 MiB, shrink", 7545, 16098, 512),
            "host_message": _measured("virtio-balloon, 2 MiB, grow", 6668, 0, 512),
            "touch": _measured("virtio-balloon, 2 MiB, first touch", 359_000, 0, 512),
        },
        "virtio-mem": {
            "discard": _measured("virtio-mem, movable, shrink", 51437, 63042, 512),
            "host_message": _measured("virtio-mem, movable, grow", 21348, 0, 512),
            "touch": _measured("virtio-mem, movable, first touch", 3.44e9, 0, _PAGES_18G),
        },
        "shared": {
            "discard": _measured("HyperAlloc, shrink", 431, 6223, 512),
            "host_message": _measured("HyperAlloc, grow", 255, 0, 512),
            "touch": _measured("HyperAlloc, first touch", 3.45e9, 0, _PAGES_18G),
        },
        "reporting": {
            "discard": replace(
                _measured("virtio-balloon, 2 MiB, shrink", 7545, 16098, 512), assumed=True,
                source="assumption: no price of a report was found; its frames as those of a 2 MiB balloon (HyperAlloc)",
            ),
            "touch": _measured("HyperAlloc, first touch", 3.45e9, 0, _PAGES_18G),
        },
        "kvm": {"touch": _TOUCH},
        "cmm2": {"touch": _TOUCH, "essa": _ESSA},
    },
    guest={
        "add_page": Price(frame=51, source="descriptor initialisation, 45-57 ns a page cold: lkml 1504.3/03018 (2015), "
                                           "2605.1/14389 (2026)"),
        "alloc_page": Price(frame=146, source=f"allocation, 6.5 % of {_LI_WANG}"),
        "online_page": Price(frame=840, source="a 256 MiB section freed in order 0, 50-60 ms: Arun KS 2018"),
        "online_block": Price(frame=15, source="a 256 MiB section freed in order 10, below 1 ms: Arun KS 2018"),
        "notifier": _assume("no price of a call of the memory notifiers was found", 100),
        "uevent": _assume("no price of a uevent was found", 20_000),
        "scan_pageblock": Price(314, source="setup_zone_migrate_reserve on boxes of 128 to 256 GiB: commit 943dca1a1fcb"),
        "scan_contiguous": Price(24.2, source="set_zone_contiguous, 9.9e-5 s/GiB^2 for a plug and an unplug by blocks of "
                                              "128 MiB: lkml 2511.2/09381, 2601.3/00180, 2604.1/02043"),
    },
    end_to_end=frozenset({"balloon", "balloon-huge", "virtio-mem", "shared", "reporting"}),
)
"""The published figures. A balloon's, virtio-mem's and HyperAlloc's were taken from end to end."""

LARGE_GUESTS = replace(
    PUBLISHED, name="large-guests",
    host={**PUBLISHED.host, "virtio-mem": {
        call: Price(frame=0.0137e9 / (1 << 18) / 2, source="0.0137 s/GiB for a plug and an unplug, half of it each: lkml "
                                                           "2511.2/09381, 2601.3/00180, 2604.1/02043")
        for call in ("discard", "host_message")
    }},
    guest={name: price if name == "scan_contiguous" else _FREE for name, price in PUBLISHED.guest.items()},
    end_to_end=PUBLISHED.end_to_end - {"virtio-mem"},
)
"""virtio-mem in guests of 256 and 512 GiB, where scanning the zone for holes dominates."""

_FREE_GUEST = dict.fromkeys(PUBLISHED.guest, _FREE)
FREE = Costs("free", {name: dict.fromkeys(calls, _FREE) for name, calls in PUBLISHED.host.items()}, _FREE_GUEST)
"""A table in which every cost is zero."""

TABLES = {costs.name: costs for costs in (PUBLISHED, LARGE_GUESTS, FREE)}

NAMES = tuple(dict.fromkeys([*(call for calls in PUBLISHED.host.values() for call in calls), *PUBLISHED.guest]))
"""The names of prices: calls to the host, and work of the guest."""


def check_price(name: str, value: Any) -> tuple[float, float, float]:
    """(ns per call, per frame, per touched frame) of a price `value`, a number or a list of up to three; `name` is for the
    message. ValueError for a negative price or NaN, TypeError unless it is a number or a list of numbers."""
    numbers = list(value) if isinstance(value, (list, tuple)) else [value]
    if not 1 <= len(numbers) <= 3 or not all(isinstance(ns, (int, float)) and not isinstance(ns, bool) for ns in numbers):
        raise TypeError(f"the price of {name} must be a number of ns or a list of up to three, not {value!r}")
    if not all(isfinite(ns) and ns >= 0 for ns in numbers):
        raise ValueError(f"invalid price {value!r} of {name}: ns from 0 on")
    call, frame, touched = [*map(float, numbers), 0.0, 0.0][:3]
    return call, frame, touched


def costs_of(table: str = "published", changes: Mapping[str, Any] | None = None) -> Costs:
    """The Costs named `table` with `changes`: {name of NAMES: ns per call, or [per call, per frame, per touched frame]}. A
    change holds for every mechanism that makes the call. ValueError for an unknown name, TypeError or ValueError for an
    invalid price."""
    if table not in TABLES:
        raise invalid_name("table of costs", table, TABLES)
    costs = TABLES[table]
    for name, value in (changes or {}).items():
        if name not in NAMES:
            raise invalid_name("call", name, NAMES)
        call, frame, touched = check_price(name, value)
        price = Price(call, frame, touched, "given by the scenario")
        costs = replace(
            costs,
            host={mechanism: {what: price if what == name else old for what, old in calls.items()}
                  for mechanism, calls in costs.host.items()},
            guest={what: price if what == name else old for what, old in costs.guest.items()},
        )
    return costs
