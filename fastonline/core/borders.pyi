__all__: list[str] = []

# Free functions over C structs only: cimport them (see borders.pxd).
