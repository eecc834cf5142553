"""cost/scale.py: what is counted, never how long it took."""


import pytest

from fastonline.cost import scale as module
from fastonline.cost.scale import bend, memmap_text, scale, scale_text, touch_memmap


def test_every_size_is_measured_or_says_why_not(monkeypatch):
    monkeypatch.setattr(module, "available_bytes", lambda: 24 << 20)
    result = scale(orders=(17, 18), repeat=1)
    assert [(row["engine"], row["order"], "skipped" in row) for row in result["rows"]] == [
        ("bitmap", 17, False), ("bitmap", 18, False), ("struct_page", 17, False), ("struct_page", 18, True)]
    text = scale_text(result)
    assert "needs 18 MiB of state, more than half of the 24 MiB available" in text
    bitmap, struct_page = result["rows"][0], result["rows"][2]
    assert bitmap["bytes_per_page"] < 1 < 64 < struct_page["bytes_per_page"]


def test_bend_names_the_cache():
    rows = [{"engine": "bitmap", "order": order, "pages": 1 << order, "random": {"min": ns}}
            for order, ns in ((17, 1.0), (18, 1.1), (19, 1.1), (20, 4.4), (21, 4.5))]
    result = {"rows": rows, "caches": {"L1d": 32 << 10, "L2": 1 << 20, "L3": 32 << 20}}
    assert bend(result, "bitmap") == {"order": 20, "cache": "L2", "factor": pytest.approx(4.0)}
    assert bend({"rows": rows[:2], "caches": {}}, "bitmap") is None


def test_first_touch_of_a_memmap():
    rows = touch_memmap(1 << 15, repeat=1)
    assert {row["backing"] for row in rows} <= {"small pages", "huge pages"} and rows
    assert all(row["bytes"] == 64 << 15 and row["faults"] > 0 for row in rows)
    assert rows[0]["faults"] >= (64 << 15) // 65536       # at most 64 KiB a fault
    assert len(memmap_text(rows).splitlines()) == 1 + len(rows)
