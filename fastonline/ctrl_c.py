"""Ctrl-C while the command line is still being imported ends the process at once, without a traceback.

Only for `fastonline` and `python -m fastonline`: a program that imports the package keeps its handler.
"""

import sys

_as_module = sys.argv[0] == "-m" and ("-m", "fastonline") in zip(sys.orig_argv, sys.orig_argv[1:], strict=False)
_changed = False
if _as_module or sys.argv[0].endswith("/fastonline"):
    import signal

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        try:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            _changed = True
        except ValueError:      # not the main thread: not the command after all
            pass


def raise_keyboard_interrupt() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt again, if that was changed here."""
    if _changed:
        import signal

        signal.signal(signal.SIGINT, signal.default_int_handler)


def end_by_sigint() -> None:
    """End the process as Ctrl-C ends a program without a handler."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.raise_signal(signal.SIGINT)
