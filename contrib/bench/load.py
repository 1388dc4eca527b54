"""Load from a core of its own: as much as possible by wrk, or at a given rate by `open_loop.py`."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from messages import PATH
from processes import on_core

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Endpoint:
    """Where messages go, and how they are signed."""

    path: str
    header: str  # of the signature
    media_type: str


SMS = Endpoint(PATH, "X-Twilio-Signature", "application/x-www-form-urlencoded")


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
    ) -> None:
        command = [
            *(sys.executable, str(HERE / "open_loop.py"), str(port), str(messages)),
            *(str(rate), str(seconds), "--connections", str(connections), "--skip", str(skip)),
            *(["--even"] if even else []),
            *(["--sleep"] if sleeps else []),
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
