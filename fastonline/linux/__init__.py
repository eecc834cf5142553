"""Real kernels: their texts, page maps and recordings, read, compared and written.

sources.read_source reads whatever file shows a machine, and says what the file leaves out; capture reads the running kernel;
recording replays what a kernel did; sysfs writes a tree for ``lsmem --sysroot``::

    >>> from fastonline.linux.sources import read_source
    >>> source = read_source("tests/data/linux-6.18-24g")
    >>> source.machine().zones["Normal"].present_pages
    5505024
"""
