"""The signals that the daemon handles in order from its first moment on: until it can, they wait.

It imports `signal` and nothing else, so that holding them is the first that a process does.
"""

from __future__ import annotations

import signal

HANDLED = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGTERM})


def hold() -> None:
    """Block them: without a handler each would end the process at once."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)


def let_come() -> None:
    """Unblock them, those that came meanwhile included."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
