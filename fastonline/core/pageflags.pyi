FLAG_NAMES: tuple[str, ...]
KPF_BUDDY: int
KPF_COMPOUND_HEAD: int
KPF_COMPOUND_TAIL: int
KPF_NOPAGE: int
KPF_OFFLINE: int
KPF_RESERVED: int

def decode_page_flags(mask: int) -> str: ...
