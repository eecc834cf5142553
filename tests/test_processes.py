"""cost/processes.py: a profile of several processes."""

import signal
import sys

import pytest
from in_process import interrupted
from test_profile import rows

from fastonline.cost.processes import profile_processes
from fastonline.cost.report import profile_text

SECTION = 1 << 17       # pages


def test_interval_from_process_to_process():
    """Each process measures all of it; the rows hold every repeat and the lowest and highest of each."""
    result = profile_processes(2, engines=["struct_page"], section="128M", repeat=3)
    assert len(result["huge_bytes"]) == 2
    for row in result["rows"] + result["calls"]:
        low, high = row["between"]["min"]
        assert len(row["times"]) == 6 and min(row["times"]) == row["ns"]["min"] == pytest.approx(low * row["pages"])
        assert low <= high <= row["between"]["median"][1]
    assert result["ratios"] == {} and rows(result, "random")[0]["merges"][0] == SECTION >> 3
    text = profile_text(result)
    assert "3 repeats in each of 2 processes" in text and max(map(len, text.splitlines())) <= 80
    assert "2 processes          struct_page, ns a page from one process to another" in text
    with pytest.raises(ValueError, match="processes must be at least 1, not 0"):
        profile_processes(0)


# `fastonline profile --processes 2`, which says "ready" when its first process has its work.
COMMAND = """
from fastonline.cli import end_by_sigint, main
from fastonline.cost import processes

class Telling(processes.Pool):
    def submit(self, *args):
        future = super().submit(*args)
        print("ready", flush=True)
        return future

processes.Pool = Telling
main(["profile", "--processes", "2"])
end_by_sigint()
"""


def test_ctrl_c_leaves_nothing_to_complain_of():
    assert interrupted([sys.executable, "-c", COMMAND]) == (-signal.SIGINT, b"", b"")
