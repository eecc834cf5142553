"""Measurements and comparisons: what `fastonline profile`, `compare` and `sweep` do, from Python.

profile measures calls of this program, in ns: profile.profile, scale.scale, report prints. compare and sweep run strategies
(strategies) on scenarios (scenario, presets/) in virtual time, at published prices (costs)::

    >>> from fastonline.cost.compare import compare
    >>> from fastonline.cost.scenario import changed, scenario
    >>> dry = changed(scenario("thread-dry"), {"workload.in_use": 0.5})
    >>> for row in compare(dry, ["split", "whole"]).rows:
    ...     print(row.strategy, row.values["grown_bytes"] >> 20)         # MiB
    split 384
    whole 0
"""
