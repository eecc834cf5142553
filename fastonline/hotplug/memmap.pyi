__all__: list[str] = []

# C functions only: cimport them (see memmap.pxd).
