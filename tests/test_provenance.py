"""cost/provenance.py: what a profile says of the machine that it ran on."""

import re

from fastonline.cost.provenance import one_line, provenance


def test_provenance():
    origin = provenance(seed=7)
    assert origin["seed"] == 7 and origin["variant"] in ("AVX2", "plain")
    assert {"fastonline", "commit", "python", "numpy", "cython", "compiler", "cpu", "kernel", "huge_pages", "date"} <= set(
        origin
    )
    assert re.match(r"\d{4}-\d\d-\d\dT", origin["date"])
    assert one_line(origin).startswith(f"fastonline {origin['fastonline']}")
