"""Compiled kernels: bit planes, buddy allocator, sections and the two page engines. Nothing here knows a zone."""
