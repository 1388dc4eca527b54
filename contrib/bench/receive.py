"""Accepted requests per second on one core, beside a bare aiohttp form handler, in one run.

Usage: python contrib/bench/receive.py [--runs 5] [--seconds 5] [--connections 32]

The server has one core, wrk (Debian package `wrk`) another; the two servers take turns. Every
message is distinct and signed by twilio's own library, and every 2xx must be in the journal
afterwards, or the run is void. Prints the figures of each run and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlencode

from twilio.request_validator import RequestValidator

HERE = Path(__file__).parent
TOKEN = "0123456789abcdef0123456789abcdef"
PATH = "/webhook/sms-response"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def write_messages(file: Path, count: int, first: int) -> None:
    validator = RequestValidator(TOKEN)
    with file.open("w") as out:
        for number in range(first, first + count):
            fields = {
                "AccountSid": "AC" + "0" * 32,
                "ApiVersion": "2010-04-01",
                "Body": f"Bonjour, message {number}",
                "From": f"+3363998{number % 10000:04d}",
                "FromCountry": "FR",
                "MessageSid": f"SM{number:032x}",
                "NumMedia": "0",
                "NumSegments": "1",
                "SmsMessageSid": f"SM{number:032x}",
                "SmsSid": f"SM{number:032x}",
                "SmsStatus": "received",
                "To": "+33639980000",
                "ToCountry": "FR",
            }
            signature = validator.compute_signature("https://bench.example.com" + PATH, fields)
            out.write(f"{signature}\t{urlencode(fields)}\n")


def start(command: list[str], port: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        ["taskset", "--cpu-list", "0", *command],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
        except OSError:
            time.sleep(0.05)
        else:
            return process
    raise SystemExit(f"did not start: {command}")


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(60)


def wrk(port: int, messages: Path, seconds: int, connections: int) -> dict[str, float]:
    done = subprocess.run(
        [
            *("taskset", "--cpu-list", "1", "wrk", "--latency", "--threads", "1"),
            *("--connections", str(connections), "--duration", f"{seconds}s"),
            *("--script", str(HERE / "signed.lua"), f"http://127.0.0.1:{port}{PATH}"),
            *("--", str(messages)),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    result: dict[str, float] = json.loads(done.stdout.partition("RESULT ")[2])
    return result


def daemon_run(folder: Path, options: argparse.Namespace, run: int) -> dict[str, float]:
    state = folder / f"state-{run}"
    state.mkdir()
    config = folder / "bench.toml"
    config.write_text(
        f'server.public_url = "https://bench.example.com"\n'
        f"rate_limit.requests = 1000000000\nrate_limit.verified_requests = 1000000001\n"
        f'channels.sms.tokens = ["{TOKEN}"]\n'
        'agents.ResponseListenerAgent.target = "log:"\n'
    )
    config.chmod(0o600)
    port = free_port()
    flags = [] if options.dispatch else ["--no-dispatch"]
    process = start(
        [
            sys.executable,
            "-m",
            "berinia_webhookd",
            "--config",
            str(config),
            "serve",
            "--port",
            str(port),
            *flags,
        ],
        port,
        {"STATE_DIRECTORY": str(state), "RUNTIME_DIRECTORY": str(state)},
    )
    messages = folder / f"messages-{run}"
    write_messages(messages, options.seconds * 8000, run * 1_000_000)
    result = wrk(port, messages, options.seconds, options.connections)
    stop(process)
    with sqlite3.connect(state / "journal.db") as journal:
        (rows,) = journal.execute("SELECT count(*) FROM events").fetchone()
    if rows < result["requests"] - result["errors"]:
        raise SystemExit(f"VOID: {result['requests']:.0f} answered, {rows} in the journal")
    messages.unlink()
    return result


def bare_run(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    port = free_port()
    process = start([sys.executable, str(HERE / "bare_aiohttp.py"), str(port)], port, {})
    messages = folder / "messages-bare"
    if not messages.exists():
        write_messages(messages, options.seconds * 12000, 900_000_000)
    result = wrk(port, messages, options.seconds, options.connections)
    stop(process)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--dispatch", action="store_true", help="dispatch to log: meanwhile")
    options = parser.parse_args()
    rates: dict[str, list[float]] = {"bare aiohttp": [], "berinia-webhookd": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for run in range(options.runs):
            for peer, result in (
                ("bare aiohttp", bare_run(folder, options)),
                ("berinia-webhookd", daemon_run(folder, options, run)),
            ):
                rate = (result["requests"] - result["errors"]) / result["seconds"]
                rates[peer].append(rate)
                print(
                    f"{peer:18} {rate:8.0f}/s  p50 {result['p50_ms']:6.2f} ms"
                    f"  p99 {result['p99_ms']:7.2f} ms  errors {result['errors']:.0f}",
                    flush=True,
                )
    medians = {peer: statistics.median(values) for peer, values in rates.items()}
    ratio = medians["berinia-webhookd"] / medians["bare aiohttp"]
    print(f"medians: {medians}; ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
