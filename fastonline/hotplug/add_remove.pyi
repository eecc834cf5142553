__all__: list[str] = []

# C functions only: cimport them (see add_remove.pxd).
