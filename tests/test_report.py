"""cost/report.py: the text of a profile: its tables, its figures, the line to quote."""

import re

import pytest

from fastonline.cost.profile import LIFECYCLE, LISTENER, WORKLOADS, Profile, profile
from fastonline.cost.report import number, profile_text, si, size


def test_text_has_every_workload_and_fits(result):
    text = profile_text(result)
    assert max(map(len, text.splitlines())) <= 80
    for name in (*WORKLOADS, LISTENER, *LIFECYCLE):
        assert sum(line.startswith(f"{name:<19}") for line in text.splitlines()) >= 2, name
    assert "131072 pages of 4096 bytes;\nX86_64, rules of Linux 6.12, 1G of boot memory" in text
    assert "2 repeats, caches warm" in text and "not a kernel's" in text
    assert "struct_page walks every page, the bitmap engine none" in text
    assert re.fullmatch(r"online_pages of 512M takes [\d.]+ [mu]?s on bitmap, [\d.]+ [mu]?s on struct_page warm\.",
                        text.splitlines()[-1])


def test_noisy_rows_fit(result):
    """Every row is noisy. Expect the three longest names that come first, and the count of the rest, in 80 columns."""
    rows = sorted(result["rows"], key=lambda row: -len(row["engine"] + row["workload"]))
    noisy = [{**row, "ns": {**row["ns"], "min": 1, "median": 1000}} for row in rows]
    text = profile_text(Profile(**{**result.as_dict(), "rows": noisy}))
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(r"Noisy: the median is more than 3 times the least in .* and \d+ more\n", " ".join(text.split("\n  ")))


def test_brief_text_has_five_rows_and_the_figure_to_quote(result):
    text = profile_text(result, brief=True)
    assert [line.split("  ")[0] for line in text.splitlines()[2:7]] == [
        "ascending", "random", "online_pages", "add_memory, first", "offline_pages"]
    assert text.splitlines()[-1].startswith("online_pages of 512M takes ")
    noisy = {**result, "rows": [{**row, "ns": {"min": 1, "median": 9, "spread": 0}} for row in result["rows"]]}
    assert "bitmap batches of 512" not in profile_text(noisy, brief=True)


def test_text_of_one_engine_has_no_ratio():
    text = profile_text(profile(engines=["struct_page"], repeat=1))
    assert " ratio\n" not in text
    assert "1 repeat, caches warm" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.004321, "0.00432"), (0.0123, "0.0123"), (1.268, "1.27"), (24.54, "24.5"), (1893.2, "1893")]
)
def test_number(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(12, "12"), (1500, "1.5k"), (1.37e8, "137M"), (9.996e8, "1000M"), (1.4e11, "140G"), (2e12, "2T")]
)
def test_si(value, text):
    assert si(value) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0 B"), (1023, "1023 B"), (33024, "32.2 KiB"), (8 << 20, "8.0 MiB"),
                                             (3 << 30, "3.0 GiB")])
def test_size(value, text):
    assert size(value) == text
