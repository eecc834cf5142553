__all__ = [
    "FLAG_NAMES", "KPF_BUDDY", "KPF_COMPOUND_HEAD", "KPF_COMPOUND_TAIL", "KPF_DIRTY", "KPF_NOPAGE",
    "KPF_OFFLINE", "KPF_OWNER_PRIVATE", "KPF_RESERVED", "PAGE_FREE", "PAGE_IN_USE", "PAGE_OFFLINE", "PAGE_WAITING", "PG_buddy",
    "PG_offline", "PG_prepared", "PG_reserved", "PG_tail", "decode_page_flags",
]

FLAG_NAMES: tuple[str, ...]
KPF_BUDDY: int
KPF_COMPOUND_HEAD: int
KPF_COMPOUND_TAIL: int
KPF_DIRTY: int
KPF_NOPAGE: int
KPF_OFFLINE: int
KPF_OWNER_PRIVATE: int
PAGE_FREE: int
PAGE_IN_USE: int
PAGE_OFFLINE: int
PAGE_WAITING: int
PG_buddy: int
PG_offline: int
PG_prepared: int
PG_reserved: int
PG_tail: int
KPF_RESERVED: int

def decode_page_flags(mask: int) -> str: ...
