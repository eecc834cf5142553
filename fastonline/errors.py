"""HotplugError, and how messages show ranges and names."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from operator import index
from typing import SupportsIndex, TypeGuard


class HotplugError(OSError):
    """A hot-plug call was refused, as the kernel would refuse it. The call changed nothing.

    ``errno`` is the kernel's (EINVAL, EEXIST, EBUSY, EPERM, ENOMEM, E2BIG, ...). ``strerror`` names the range, in hex as the
    kernel's own messages do, and the reason.
    """

    errno: int
    strerror: str

    def __str__(self) -> str:
        return f"{errno.errorcode.get(self.errno, self.errno)}: {self.strerror}"

    @classmethod
    def of(cls, code: int, message: str) -> HotplugError:
        """Return a HotplugError of errno `code` (int, positive) that says `message`."""
        return cls(code, message)


def pfn_range(start_pfn: int, nr_pages: int) -> str:
    """Return a range of page frames as messages show it: ``[pfn 0x40000-0x5ffff]``."""
    return f"[pfn {start_pfn:#x}-{start_pfn + nr_pages - 1:#x}]"


def invalid_name(what: str, name: object, expected: Iterable[str]) -> ValueError:
    """Return the ValueError for a `name` that is not among those `expected`. It suggests the nearest one, if one is near.

    what: what the name is of: ``invalid geometry 'X86_46' (expected X86_32_PAE, X86_64); did you mean 'X86_64'?``
    """
    from difflib import get_close_matches

    known = {one.upper(): one for one in expected}
    near = get_close_matches(str(name).upper(), known, 1)
    hint = f"; did you mean {known[near[0]]!r}?" if near else ""
    return ValueError(f"invalid {what} {name!r:.80} (expected {', '.join(known.values())}){hint}")


def is_number(value: object) -> TypeGuard[SupportsIndex]:
    """Return whether the value is an int or a NumPy integer. A bool is not."""
    return hasattr(value, "__index__") and not isinstance(value, bool)


def as_int(value: object, what: str) -> int:
    """Return an int or a NumPy integer as an int. TypeError for another `value`, which the message calls `what`."""
    if not is_number(value):
        raise TypeError(f"{what} must be an int, not {value!r:.80}")
    return index(value)


def expect(value: object, kind: type, what: str) -> None:
    """Raise TypeError unless `value`, which the message calls `what`, is of a `kind`."""
    if not isinstance(value, kind):
        raise TypeError(f"{what} must be a {kind.__name__}, not {value!r:.80}")
