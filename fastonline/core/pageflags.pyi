__all__ = [
    "FLAG_NAMES", "KPF_BUDDY", "KPF_COMPOUND_HEAD", "KPF_COMPOUND_TAIL", "KPF_DIRTY", "KPF_NOPAGE",
    "KPF_OFFLINE", "KPF_OWNER_PRIVATE", "KPF_RESERVED", "decode_page_flags",
]

FLAG_NAMES: tuple[str, ...]
KPF_BUDDY: int
KPF_COMPOUND_HEAD: int
KPF_COMPOUND_TAIL: int
KPF_DIRTY: int
KPF_NOPAGE: int
KPF_OFFLINE: int
KPF_OWNER_PRIVATE: int
KPF_RESERVED: int

def decode_page_flags(mask: int) -> str: ...
