# Free functions over C structs only: cimport them (see buddy.pxd).
