"""How long providers wait for their answers while people use the console: ten click once a second
each, two watch the log. Beside runs in which nobody does.

As a program it is those people: they log in by links, use every page until its input ends, and
print what they got. Usage: python console.py URL PORT LINK… <something
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
from bench import Bench, Result, medians, say
from daemon import COMMAND, LOG_AGENT, Installation
from load import OpenLoop
from processes import free_port, running

RATE = 200  # events a second
SECONDS = 15
CLICKING, WATCHING = 10, 2
FIGURES = ("p50_ms", "p99_ms", "longest_answer_ms", "pages", "page_p50_ms", "page_p99_ms")
IDLE, USED = "nobody", f"{CLICKING} who click, {WATCHING} who watch"
PAGES = (
    *("/", "/messages", "/messages?state=done", "/messages?channel=sms&period=24h", "/dead"),
    *("/messages?q=%2B33639980001", "/messages?q=Bonjour", "/refused", "/actions"),
    *("A MESSAGE", "A CONVERSATION"),
)


def measure(bench: Bench) -> Result:
    """Medians of answers, with people at the console and without; they take turns."""
    taken = bench.take_turns((IDLE, USED), partial(_one_run, bench))
    return {"rate": RATE} | {name: medians(runs) for name, runs in taken.items()}


def _one_run(bench: Bench, name: str) -> Result:
    folder, port = bench.new_folder("console"), free_port()
    settings = f'{LOG_AGENT}\nconsole.enabled = true\nconsole.listen = "127.0.0.1:{port}"'
    daemon = Installation(folder, settings)
    seconds = min(SECONDS, bench.seconds * 5)
    messages = bench.other_messages(RATE * seconds + 1)
    with (
        running(daemon.start(core=None, dispatch=True)) as server,
        _people(daemon, port, people=name == USED) as told,
    ):
        load = OpenLoop(
            server.port,
            messages,
            rate=RATE,
            seconds=seconds,
            core=bench.cores.load,
            sleeps=True,
        )
        result = load.result()
    daemon.must_hold(result["accepted"])
    shutil.rmtree(folder)
    if other := set(told["answers"]) - {"200"}:
        raise SystemExit(f"VOID: the console answered {other}")
    result |= told
    say(
        f"  {name:26} p50 {result['p50_ms']:.2f} ms  p99 {result['p99_ms']:.2f} ms"
        f"  {result['pages']} pages, their p99 {result['page_p99_ms']:.0f} ms"
    )
    return {key: result[key] for key in FIGURES}


@contextmanager
def _people(daemon: Installation, port: int, *, people: bool) -> Iterator[Result]:
    """Has people use the console, and tells what they got once they have left. They give way to all
    others: their browsers are on other machines.
    """
    told: Result = {"pages": 0, "page_p50_ms": 0.0, "page_p99_ms": 0.0, "answers": {}}
    if not people:
        yield told
        return
    links = [_link(daemon, number) for number in range(CLICKING + WATCHING)]
    url, _, _ = links[0].partition("/login")
    secrets = [link.partition("link=")[2] for link in links]
    program = [sys.executable, str(Path(__file__)), url, str(port), *secrets]
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(["nice", "-n", "19", *program], **pipe) as crowd:
        assert crowd.stdout is not None
        crowd.stdout.readline()  # all are logged in
        yield told
        said, _ = crowd.communicate()
    told |= json.loads(said)


def _link(daemon: Installation, number: int) -> str:
    config = str(daemon.config)
    name = f"person {number}"
    done = subprocess.run(
        [*COMMAND, "--config", config, "console", "login", "--name", name],
        env=daemon.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


class Person:
    """Somebody who is logged in."""

    def __init__(self, http: aiohttp.ClientSession, url: str, port: int) -> None:
        self._http = http
        self._here = f"http://127.0.0.1:{port}"
        self._headers = {"Host": url.partition("://")[2], "Origin": url}
        self.answers = Counter[str]()
        self.taken_ms: list[float] = []

    async def log_in(self, secret: str) -> None:
        """By a link."""
        form = {"data": urlencode({"link": secret}), "allow_redirects": False}
        headers = {**self._headers, "Content-Type": "application/x-www-form-urlencoded"}
        async with self._http.post(f"{self._here}/login", headers=headers, **form) as answer:
            cookie = answer.headers["Set-Cookie"].partition(";")[0]
        self._headers["Cookie"] = cookie

    async def click(self, first: int) -> None:
        """A page a second, one after the other."""
        message, conversation = "/messages", "/messages"
        for page in itertools.islice(itertools.cycle(PAGES), first, None):
            target = {"A MESSAGE": message, "A CONVERSATION": conversation}.get(page, page)
            started = time.perf_counter()
            async with self._http.get(self._here + target, headers=self._headers) as answer:
                text = await answer.text()
            self.taken_ms.append((time.perf_counter() - started) * 1000)
            self.answers[str(answer.status)] += 1
            message = _link_on(text, "/messages/[0-9a-f-]{36}") or message
            conversation = _link_on(text, "/conversations/[0-9]+") or conversation
            await asyncio.sleep(max(0.0, started + 1 - time.perf_counter()))

    async def watch(self) -> None:
        """Every line of the log."""
        async with self._http.get(f"{self._here}/live/lines", headers=self._headers) as answer:
            self.answers[str(answer.status)] += 1
            async for _ in answer.content:
                pass


def _link_on(text: str, pattern: str) -> str | None:
    found = re.search(f'href="({pattern})"', text)
    return None if found is None else found[1]


async def _use(url: str, port: int, secrets: Sequence[str]) -> Result:
    timeout = aiohttp.ClientTimeout(total=None)
    connector = aiohttp.TCPConnector(limit=0)
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(connector=connector, cookie_jar=jar, timeout=timeout) as http:
        people = [Person(http, url, port) for _ in secrets]
        for person, secret in zip(people, secrets, strict=True):
            await person.log_in(secret)
        print("here", flush=True)
        doing = [
            asyncio.create_task(person.click(number) if number < CLICKING else person.watch())
            for number, person in enumerate(people)
        ]
        await asyncio.to_thread(sys.stdin.read)
        for one in doing:
            one.cancel()
        ended = await asyncio.gather(*doing, return_exceptions=True)
    for error in ended:
        if error is not None and not isinstance(error, asyncio.CancelledError):
            raise error
    taken = sorted(ms for person in people for ms in person.taken_ms)
    return {
        "pages": len(taken),
        "page_p50_ms": taken[len(taken) // 2],
        "page_p99_ms": taken[len(taken) * 99 // 100],
        "answers": sum((person.answers for person in people), Counter[str]()),
    }


if __name__ == "__main__":
    where, at, *keys = sys.argv[1:]
    print(json.dumps(asyncio.run(_use(where, int(at), keys))))
