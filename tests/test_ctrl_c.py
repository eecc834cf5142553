"""ctrl_c: Ctrl-C while the command is still being imported."""

import os
import signal
import sys
from pathlib import Path

import pytest
from in_process import interrupted

import fastonline as fo


@pytest.fixture
def slow_import(tmp_path):
    """A PYTHONPATH where importing NumPy says "ready" and takes long, in short sleeps: a signal before one waits for it."""
    tmp_path.joinpath("numpy.py").write_text(
        "import time\nprint('ready', flush=True)\nfor _ in range(6000):\n    time.sleep(0.01)\n"
    )
    return os.pathsep.join([str(tmp_path), str(Path(fo.__file__).parents[1])])


def test_the_command_ends_without_a_traceback(slow_import):
    args = [sys.executable, "-P", "-m", "fastonline", "profile"]
    assert interrupted(args, PYTHONPATH=slow_import) == (-signal.SIGINT, b"", b"")


@pytest.mark.parametrize("args", [["-c", "import fastonline"], ["-c", "import fastonline", "-m", "fastonline"]])
def test_a_program_that_imports_the_package_keeps_its_handler(slow_import, args):
    assert b"KeyboardInterrupt" in interrupted([sys.executable, *args], PYTHONPATH=slow_import)[2]
