"""Run a piece of work in a process of its own: one that may end in a signal, or not at all."""

import gc
import os
import signal
import subprocess
import sys
import time
import traceback

HUNG = (signal.SIGPROF, signal.SIGALRM)


def in_process(work, seconds=30):
    """Run work() in a forked child. Returns "" when it returned, else the traceback of its exception. A line follows for each
    exception that was ignored, since pytest's hook for those lives in the parent. AssertionError when the child ended in a
    signal, took so many seconds of a processor, or ten times as many by the clock."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        gc.callbacks.clear()    # Hypothesis has one, where a signal's exception would be lost
        gc.freeze()             # a collection looks at what the work makes, not at all of the parent's objects
        text, ignored = "the child could not say what happened", []
        sys.unraisablehook = lambda found: ignored.append(
            f"ignored in {found.object!r}: {found.exc_type.__name__}: {found.exc_value}\n"
        )
        try:
            for number in HUNG:
                signal.signal(number, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_PROF, seconds)       # others may keep the processors busy
            signal.setitimer(signal.ITIMER_REAL, 10 * seconds)  # who waits for ever uses none
            try:
                work()
                text = ""
            except BaseException:
                text = traceback.format_exc()
            with open(into, "w") as file:
                file.write(text + "".join(ignored))
        finally:
            os._exit(0)
    os.close(into)
    with open(out) as file:
        text = file.read()
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        raise AssertionError(
            "the work hung" if number in HUNG else f"the process ended in {signal.Signals(number).name}"
        )
    return text


def raised_in_process(work, seconds=30):
    """The name of the exception that work() raises in a process of its own, or "" when it returns."""
    text = in_process(work, seconds).strip()
    return text.splitlines()[-1].partition(":")[0].rpartition(".")[2] if text else ""


def interrupted(args, seconds=0.0, **env):
    """Run a program until it has printed "ready" and for some seconds more, send SIGINT, and return what follows: exit status,
    output and errors."""
    running = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **env})
    try:
        first = running.stdout.readline()
        assert first == b"ready\n"
        time.sleep(seconds)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    finally:
        running.kill()
    return running.returncode, out, err


def in_child(work):
    """Fork, run work() in the child as it is, and say whether it came to its end there."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(60)
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0
