"""What the tests' own child processes must tell their parent."""

import time

import pytest
from in_process import in_process, raised_in_process


class Ignored:
    """Its end raises, and nobody can catch that: as an overflow in a noexcept function of the checked build."""

    def __del__(self):
        raise OverflowError("value too large")


def test_what_is_told():
    assert in_process(lambda: None) == ""
    assert raised_in_process(lambda: 1 // 0) == "ZeroDivisionError"


def test_an_ignored_exception_fails():
    text = in_process(Ignored)
    assert text.startswith("ignored in ") and text.endswith(": OverflowError: value too large\n")


def test_an_ignored_exception_hides_the_expected_one():
    def work():
        Ignored()
        raise KeyError("expected")

    text = in_process(work)
    assert "KeyError: 'expected'" in text and "OverflowError: value too large" in text
    assert raised_in_process(work) != "KeyError"


def test_work_that_does_not_end():
    def busy():
        while True:
            pass

    for work in (busy, lambda: time.sleep(3600)):
        with pytest.raises(AssertionError, match="^the work hung$"):
            in_process(work, 0.1)
