"""Agents that do everything wrong, each in its own way; run in agent hosts by the tests."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import pathlib
import resource
import signal
import subprocess
import sys
import threading
import time
from typing import Any

Event = dict[str, Any]
REQUESTS_FD = 64


def hang(event: Event) -> None:
    threading.Event().wait()


def hang_with_a_sign(event: Event) -> None:
    pathlib.Path(event["data"]["body"]).touch()
    hang(event)


async def hang_async(event: Event) -> None:
    await asyncio.Event().wait()


def spin(event: Event) -> None:
    while True:
        pass


def stop_itself(event: Event) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def ignore_signals(event: Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    hang(event)


def os_exit(event: Event) -> None:
    os._exit(3)


def sys_exit(event: Event) -> None:
    sys.exit("I am done with this")


class Unusual(BaseException):
    """Caught by no `except Exception`."""


def base_exception(event: Event) -> None:
    raise Unusual("beyond all exceptions")


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def unspeakable_exception(event: Event) -> None:
    raise Unspeakable


def recurse(event: Event) -> None:
    recurse(event)


def segfault(event: Event) -> None:
    ctypes.string_at(0)


def fill_memory(event: Event) -> None:
    kept = []
    while True:
        kept.append(bytearray(1 << 20))


def kill_parent(event: Event) -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    hang(event)


def leave_a_session_and_kill_guardian(event: Event) -> None:
    _fork(session=True)
    kill_parent(event)


def stop_guardian(event: Event) -> dict[str, str]:
    os.kill(os.getppid(), signal.SIGSTOP)
    return {"response": "nobody watches"}


def stop_guardian_and_hang(event: Event) -> None:
    stop_guardian(event)
    hang(event)


def stop_guardian_and_exit(event: Event) -> None:
    stop_guardian(event)
    os._exit(6)


def lower_limits(event: Event) -> dict[str, str]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    return {"response": "nobody writes"}


_leaked: list[int] = []


def leak_descriptors(event: Event) -> dict[str, str]:
    try:
        while True:
            _leaked.append(os.dup(1))
    except OSError as error:
        return {"status": "error", "error": str(error)}


def close_descriptors(event: Event) -> None:
    os.closerange(3, 256)


def close_output(event: Event) -> dict[str, str]:
    os.closerange(0, 3)
    return {"response": "silent"}


def break_streams(event: Event) -> dict[str, str]:
    sys.stdout.close()
    sys.stderr = None
    return {"response": "streams broken"}


def write_into_socket(event: Event) -> None:
    os.write(REQUESTS_FD, b"what is this descriptor for?")


def print_megabytes(event: Event) -> dict[str, str]:
    line = "x" * 1000
    for _ in range(8 << 10):
        sys.stdout.write(f"{line}\n")
    sys.stdout.write("y" * (4 << 20))
    return {"response": "said a lot"}


def half_a_line(event: Event) -> dict[str, str]:
    sys.stdout.write("half a li")
    return {"response": "half"}


def change_folder(event: Event) -> dict[str, str]:
    before = pathlib.Path.cwd()
    os.chdir("/")
    return {"response": str(before)}


def _forever() -> None:
    """What a grandchild does."""
    time.sleep(3600)


def _fork(*, session: bool) -> None:
    if os.fork() == 0:
        if session:
            os.setsid()
            if os.fork():  # a daemon in the classical way: its parent is gone
                os._exit(0)
        _forever()


def fork_and_hang(event: Event) -> None:
    _fork(session=False)
    hang(event)


def fork_and_kill_parent(event: Event) -> None:
    _fork(session=False)
    kill_parent(event)


def fork_session_and_hang(event: Event) -> None:
    _fork(session=True)
    hang(event)


def fork_session_and_exit(event: Event) -> None:
    _fork(session=True)
    os._exit(4)


def fork_session_and_return(event: Event) -> dict[str, str]:
    _fork(session=True)
    return {"response": "left one behind"}


def start_program_and_exit(event: Event) -> None:
    subprocess.Popen(["sleep", "3600"], start_new_session=True)
    os._exit(5)


def fork_and_return_twice(event: Event) -> dict[str, str]:
    os.fork()
    return {"response": "from one of two"}


def endless_threads(event: Event) -> dict[str, str]:
    for _ in range(8):
        threading.Thread(target=_forever).start()
    return {"response": "threads left"}


class Odd:
    def __str__(self) -> str:
        raise RuntimeError("no words")


def no_json(event: Event) -> dict[Any, Any]:
    return {"response": "still fine", "result": {1, 2}, "message": Odd(), b"bytes": object()}


def no_dict(event: Event) -> object:
    return object()


def broken_text(event: Event) -> dict[str, Any]:
    return {"response": "broken \udcff text"}


def huge_answer(event: Event) -> dict[str, Any]:
    return {"response": "é" * (8 << 20)}


def endless_nesting(event: Event) -> dict[str, Any]:
    nested: list[Any] = []
    nested.append(nested)
    return {"response": "nested", "data": nested, "result": nested}


def remove_log_handlers(event: Event) -> dict[str, str]:
    logging.basicConfig()
    logging.getLogger().handlers.clear()
    logging.getLogger().addHandler(logging.NullHandler())
    logging.disable(logging.CRITICAL)
    return {"response": "logging is gone"}


def change_the_world(event: Event) -> dict[str, str]:
    os.environ.clear()
    os.umask(0o777)
    sys.setrecursionlimit(60)
    signal.alarm(0)
    return {"response": "changed"}
