"""The one exception of the kernel's own answers."""

from __future__ import annotations

import errno
import os


class HotplugError(OSError):
    """A hot-plug call was refused as the kernel would refuse it; nothing was changed.

    ``errno`` is the kernel's (EINVAL, EEXIST, EBUSY, EPERM, ENOMEM, E2BIG, ...), ``strerror`` says what was wrong with which
    range, in hex as the kernel's own messages have it.
    """

    errno: int
    strerror: str

    def __str__(self) -> str:
        return f"{errno.errorcode.get(self.errno, self.errno)}: {self.strerror}"

    @classmethod
    def of(cls, code: int, message: str) -> HotplugError:
        """A HotplugError of errno `code` (int, positive) with that errno's own text behind the message."""
        return cls(code, f"{message} ({os.strerror(code)})")


def pfn_range(start_pfn: int, nr_pages: int) -> str:
    """A range of page frames as messages show it: ``[pfn 0x40000-0x5ffff]``."""
    return f"[pfn {start_pfn:#x}-{start_pfn + nr_pages - 1:#x}]"
