"""Load from a core of its own: as much as possible by wrk, or at a given rate by `open_loop.py`;
and what that cost whom it was sent to.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from messages import SMS, Endpoint
from processes import Server, on_core

HERE = Path(__file__).parent
LONGER = (1, 2, 4, 8, 16)  # on a machine so busy that nobody answers in time
# What the tables show of `full_load`.
FIGURES = ("rate", "cpu_us", "store_cpu_us", "p50_ms", "p99_ms", "longest_ms", "curve_ms")


class Void(SystemExit):
    """The run says nothing, because an answer was given for nothing."""


def must_be_kept(accepted: int, held: int, *, repeated: int = 0) -> None:
    """Every 2xx is found afterwards.

    Raises:
        Void: it is not, or a message was sent twice, so that this cannot be known.
    """
    if repeated:
        raise Void("VOID: the messages ran out; give fewer --seconds")
    if held < accepted:
        raise Void(f"VOID: {accepted} answers of 2xx, {held} messages kept")


def warm_up(port: int, messages: Path, endpoint: Endpoint = SMS) -> int:
    """Sends all of a small file, one after the other: what a program loads or connects on first use
    is no part of what a request costs. Gives their number; each must be answered with 2xx.
    """
    requests = [line.partition("\t") for line in messages.read_text().splitlines()]
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        for signature, _, body in requests:
            headers = {"Content-Type": endpoint.media_type, endpoint.header: signature}
            connection.request("POST", endpoint.path, body.replace("\1", "\r\n"), headers)
            answer = connection.getresponse()
            answer.read()
            if not 200 <= answer.status < 300:
                raise SystemExit(f"the first messages were answered {answer.status}")
    return len(requests)


def full_load(
    server: Server,
    messages: Path,
    *,
    core: int | None,
    seconds: int,
    connections: int = 32,
    endpoint: Endpoint = SMS,
    port: int | None = None,
    store: Callable[[], float] = lambda: 0.0,
    settle: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """wrk, and the CPU of the server for each request that it answered. Adds to what
    `as_much_as_possible` gives: accepted, rate (accepted a second), cpu_us, and store_cpu_us, which
    is that part of it which a server outside had.

    Args:
        server: who answers.
        messages: a file of `messages`.
        core: the core that wrk uses alone; None for all of them.
        seconds: for how long.
        connections: at once.
        endpoint: where to.
        port: another than the server's, which stands before it.
        store: the CPU time of the server that keeps the messages, in seconds.
        settle: called after the load; what is done until it returns is part of the cost.
    """
    for times in LONGER:
        before, before_store = server.cpu_seconds(), store()
        result = as_much_as_possible(
            port or server.port,
            messages,
            core=core,
            seconds=seconds * times,
            connections=connections,
            endpoint=endpoint,
        )
        if result["requests"]:
            break
    else:
        raise SystemExit(f"not one answer in {seconds * times} s")
    settle()
    stored = store() - before_store
    used = server.cpu_seconds() - before + stored
    accepted = result["requests"] - result["refused"]
    each = 1e6 / result["requests"]
    return result | {
        "accepted": accepted,
        "rate": accepted / result["seconds"],
        "cpu_us": used * each,
        "store_cpu_us": stored * each,
    }


def as_much_as_possible(
    port: int,
    messages: Path,
    *,
    core: int | None,
    seconds: int,
    connections: int,
    endpoint: Endpoint = SMS,
) -> dict[str, Any]:
    """wrk over keep-alive connections. Gives requests (that were answered), of which refused;
    errors (refused, or without an answer), repeated, seconds, p50_ms, p99_ms, longest_ms, and
    curve_ms (percentiles 1 to 99).
    """
    done = subprocess.run(
        on_core(
            core,
            [
                *("wrk", "--latency", "--threads", "1", "--timeout", "30s"),
                *("--connections", str(connections), "--duration", f"{seconds}s"),
                *("--script", str(HERE / "signed.lua"), f"http://127.0.0.1:{port}{endpoint.path}"),
                *("--", str(messages), endpoint.header, endpoint.media_type),
            ],
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"wrk failed: {done.stdout}{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.partition("RESULT ")[2])
    return result


class OpenLoop:
    """Callers at a given rate, in the background until `result` is asked for.

    Args:
        port: whom to ask.
        messages: a file of `messages.write_messages`.
        rate: requests a second.
        seconds: for how long.
        core: the core to use alone; None for all of them.
        connections: at most.
        even: at even distances instead of at random.
        sleeps: leaves its core to others between two requests.
        skip: so many messages are left out at the beginning of the file.
        lines: `result` names the lines of the file that were accepted, from 0.
    """

    def __init__(
        self,
        port: int,
        messages: Path,
        *,
        rate: float,
        seconds: float,
        core: int | None,
        connections: int = 256,
        even: bool = False,
        sleeps: bool = False,
        skip: int = 0,
        lines: bool = False,
    ) -> None:
        command = [
            *(sys.executable, str(HERE / "open_loop.py"), str(port), str(messages)),
            *(str(rate), str(seconds), "--connections", str(connections), "--skip", str(skip)),
            *(["--even"] if even else []),
            *(["--sleep"] if sleeps else []),
            *(["--lines"] if lines else []),
        ]
        self._process = subprocess.Popen(on_core(core, command), stdout=subprocess.PIPE, text=True)

    def result(self) -> dict[str, Any]:
        """Waits for the end; what `open_loop.py` says."""
        output, _ = self._process.communicate()
        if self._process.returncode:
            raise SystemExit("open_loop.py failed")
        result: dict[str, Any] = json.loads(output)
        result["accepted"] = sum(
            many for status, many in result["answers"].items() if status.startswith("2")
        )
        return result
