"""Saved machines with one value changed and a right checksum: refused, or whole whatever is done with them afterwards.

FASTONLINE_FUZZ_STATES=1000000 tries so many inputs on each engine; FASTONLINE_FUZZ_FIRST begins at another one.
"""

import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

INPUTS = int(os.environ.get("FASTONLINE_FUZZ_STATES", "3000"))
FIRST = int(os.environ.get("FASTONLINE_FUZZ_FIRST", "0"))
MOST_FINDINGS = 50
HUNG = 300      # seconds of waiting; the fuzzer ends itself after a twentieth of it on a processor
FUZZER = Path(__file__).with_name("state_fuzzer.py")


def run(engine, tmp_path, first, end):
    """Run the fuzzer over [first, end), again behind each input that ends it; (inputs, loaded, findings)."""
    progress = tmp_path / "progress"
    findings, loaded, nr = [], 0, first
    while nr < end and len(findings) < MOST_FINDINGS:
        progress.write_bytes(struct.pack("<QQ", nr, 0))
        with open(tmp_path / "found", "w+") as found:
            child = subprocess.Popen(
                [sys.executable, FUZZER, engine, str(nr), str(end), progress], stdout=found, stderr=subprocess.STDOUT
            )
            why = watch(child, progress)
            at, some = struct.unpack("<QQ", progress.read_bytes())
            loaded += some
            found.seek(0)
            findings += found.read().splitlines()
        if why:
            findings.append(f"input {at}: {why}")
        nr = at + 1 if at < end else end
    return nr - first, loaded, findings


def watch(child, progress):
    """Wait for a fuzzer: "" when it is done, else how it ended."""
    last, since = None, time.monotonic()
    while child.poll() is None:
        time.sleep(0.05)
        at = progress.read_bytes()[:8]
        if at != last:
            last, since = at, time.monotonic()
        if time.monotonic() - since > HUNG:
            child.kill()
            child.wait()
            return "hung"
    return "" if child.returncode == 0 else (
        signal.Signals(-child.returncode).name if child.returncode < 0 else f"the fuzzer ended with {child.returncode}"
    )


def test_states(engine, tmp_path, capsys):
    tried, loaded, findings = run(engine, tmp_path, FIRST, FIRST + INPUTS)
    with capsys.disabled():
        print(f"\nsaved states, {engine}: {tried} inputs from {FIRST} on, {loaded} loaded")
    assert not findings, "\n".join(findings)
    assert tried == INPUTS and loaded
