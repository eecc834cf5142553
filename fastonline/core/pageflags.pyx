__all__ = [
    "FLAG_NAMES", "KPF_BUDDY", "KPF_COMPOUND_HEAD", "KPF_COMPOUND_TAIL", "KPF_DIRTY", "KPF_NOPAGE",
    "KPF_OFFLINE", "KPF_OWNER_PRIVATE", "KPF_RESERVED", "PAGE_FREE", "PAGE_IN_USE", "PAGE_OFFLINE", "PAGE_WAITING", "PG_buddy",
    "PG_offline", "PG_prepared", "PG_reserved", "PG_tail", "decode_page_flags",
]

# In the order of their bits in the mask.
FLAG_NAMES = ("PG_reserved", "PG_buddy", "PG_offline", "PG_tail", "PG_prepared")

# Bits of /proc/kpageflags (include/uapi/linux/kernel-page-flags.h, 6.1; the last two are kernel-internal there).
KPF_DIRTY = 1 << 4
KPF_BUDDY = 1 << 10
KPF_COMPOUND_HEAD = 1 << 15
KPF_COMPOUND_TAIL = 1 << 16
KPF_NOPAGE = 1 << 20
KPF_OFFLINE = 1 << 23
KPF_RESERVED = 1 << 32
KPF_OWNER_PRIVATE = 1 << 37


def decode_page_flags(mask):
    """Return the names of the flags in a mask, as drgn prints them: ``'PG_reserved|PG_prepared'``, or ``'0'`` for none."""
    return "|".join([name for i, name in enumerate(FLAG_NAMES) if mask >> i & 1]) or "0"
