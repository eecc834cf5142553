"""cost.against: ratios of two profiles, made by hand so that no time is measured."""

import copy
import json
import tracemalloc

import numpy as np
import pytest

from fastonline.cost.against import _medians, against, against_text, load_profile

ROWS = [{"engine": "bitmap", "workload": name, "times": [100.0, 101.0, 99.0, 100.5]} for name in ("random", "online_pages")]
OLD = {"geometry": "X86_64", "rules": "6.12", "section": "512M", "nr_pages": 131072, "boot": "1G", "rows": ROWS, "calls": []}


def slower(factor):
    new = copy.deepcopy(OLD)
    new["rows"][0]["times"] = [factor * time for time in ROWS[0]["times"]]
    return new


def test_a_slower_workload_is_found():
    rows = against(slower(1.5), OLD)
    assert [row["worse"] for row in rows] == [True, False]
    assert rows[0]["ratio"] == pytest.approx(1.5) and rows[0]["low"] < 1.5 < rows[0]["high"]
    text = against_text(rows, 0.1)
    assert "1 of 2 worse by more than 10%" in text and text.count("WORSE") == 1


def test_within_the_tolerance():
    assert not any(row["worse"] for row in against(slower(1.5), OLD, tolerance=0.6))


def test_noise_is_no_change():
    """A median half as long again, from times all over the place: the interval reaches below the tolerance."""
    new = copy.deepcopy(OLD)
    new["rows"][0]["times"] = [90.0, 400.0, 95.0, 150.0, 100.0]
    assert not against(new, OLD)[0]["worse"]


def test_the_same_seed_gives_the_same_interval():
    assert against(slower(1.2), OLD, seed=3) == against(slower(1.2), OLD, seed=3)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 9, 10, 200])
def test_medians_are_those_of_resamples(n):
    """Mean and spread of the resampled medians, within what 2000 of them allow."""
    times, random = np.arange(n) ** 1.5, np.random.default_rng(5)
    got = _medians(times, random)
    expected = np.median(times[random.integers(0, n, (20000, n))], axis=1)
    error = 6 * expected.std() / np.sqrt(2000)
    assert abs(got.mean() - expected.mean()) <= error and abs(got.std() - expected.std()) <= error
    assert times[0] <= got.min() and got.max() <= times[-1]


def test_memory_follows_the_profile():
    """A million times: as much memory as they need, not as much for each resample."""
    many = OLD | {"rows": [ROWS[0] | {"times": [1.0] * 1_000_000}]}
    tracemalloc.start()
    try:
        against(OLD, many)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def test_profiles_of_different_things():
    with pytest.raises(ValueError, match="the older profile has rules '6.1', this one '6.12'"):
        against(OLD, OLD | {"rules": "6.1"})
    with pytest.raises(ValueError, match="no workload in common"):
        against(OLD, OLD | {"rows": []})


@pytest.mark.parametrize("content", [
    "", "[]", "{}", "nonsense", json.dumps(OLD | {"rows": [{"engine": "bitmap"}]}), json.dumps(OLD | {"rows": 5}),
    json.dumps(OLD | {"rows": [{"engine": "bitmap", "workload": "w", "times": []}]}),
    json.dumps(OLD | {"rows": [{"engine": "bitmap", "workload": "w", "times": ["x"]}]}), "[" * 100000,
    json.dumps(OLD | {"rows": [{"engine": {}, "workload": "w", "times": [1]}]}),
    json.dumps(OLD | {"rows": [{"engine": "bitmap", "workload": "w", "times": [1e300]}]}),
])
def test_files_that_are_no_profile(content, tmp_path):
    path = tmp_path / "old.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="not a profile with every repeat's time"):
        load_profile(path)


def test_a_file_that_is_one(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps(OLD))
    assert load_profile(path) == OLD
