"""Agents in every shape that a target can name."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import sys
from typing import Any

Event = dict[str, Any]


def function(event: Event) -> Event:
    return {"response": json.dumps(event)}


async def coroutine_function(event: Event) -> Event:
    await asyncio.sleep(0)
    return {"response": event["id"]}


class WithHandle:
    def handle(self, event: Event) -> Event:
        return {"response": event["id"]}


class WithAsyncHandle:
    def __init__(self) -> None:
        self.lock: asyncio.Lock | None = None

    async def handle(self, event: Event) -> Event:
        loop = asyncio.get_running_loop()
        self.lock = self.lock or asyncio.Lock()
        async with self.lock:
            return {"response": f"{event['id']} {id(loop)}"}


class WithRun:
    def run(self, input_data: Event) -> Event:
        return {"response": json.dumps(input_data)}


class WithBoth:
    def handle(self, event: Event) -> Event:
        return {"response": "handle"}

    def run(self, input_data: Event) -> Event:
        return {"response": "run"}


class Outer:
    class Inner:
        """Found by its whole name."""

        def run(self, input_data: Event) -> Event:
            return {"response": input_data["event_id"]}


class Callable:
    def __call__(self, event: Event) -> Event:
        return {"response": event["id"]}


instance = WithHandle()
callable_instance = Callable()
bound_method = WithHandle().handle
number = 5


class NeedsArguments:
    def __init__(self, configuration: str) -> None:
        self.configuration = configuration

    def run(self, input_data: Event) -> Event:
        return {}


class BrokenConstructor:
    def __init__(self) -> None:
        raise LookupError("no key in the configuration")

    def run(self, input_data: Event) -> Event:
        return {}


def echo(event: Event) -> Any:
    """Returns what the text of the message says, as JSON."""
    return json.loads(event["data"]["body"])


def environment(event: Event) -> Event:
    return {"response": json.dumps(dict(os.environ))}


def surroundings(event: Event) -> Event:
    """What this process has of the daemon: descriptors, modules, arguments."""
    descriptors = {}
    for link in pathlib.Path("/proc/self/fd").iterdir():
        try:
            descriptors[link.name] = str(link.readlink())
        except OSError:
            continue  # the one that lists
    said = {
        "descriptors": descriptors,
        "modules": sorted(sys.modules),
        "arguments": sys.argv[1:],
        "path": sys.path,
        "stdin": sys.stdin.read(),
        "session": os.getsid(0),
        "group": os.getpgid(0) == os.getpid(),
        "niceness": os.nice(0),
        "cpus": sorted(os.sched_getaffinity(0)),
        "oom_score_adj": pathlib.Path("/proc/self/oom_score_adj").read_text().strip(),
    }
    return {"response": json.dumps(said)}


def read_attachments(event: Event) -> Event:
    attachments = event["data"]["attachments"]
    contents = [pathlib.Path(known["path"]).read_text() for known in attachments]
    return {"response": json.dumps([attachments, contents])}


def speak(event: Event) -> Event:
    """Says what it got, on both streams and below Python."""
    data = event["data"]
    sys.stdout.write(f"\x1b[32mfrom {data['sender']}\x1b[0m\n")
    sys.stderr.write(f"says {data['body']}\n")
    os.write(1, b"from below\n")
    return {}


def fail_with_data(event: Event) -> Event:
    raise ValueError(f"cannot call {event['data']['sender']} back")
