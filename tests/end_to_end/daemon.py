"""A real daemon for tests: its own process, folder and port, driven from outside like a user's."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from twilio.request_validator import RequestValidator

from berinia_webhookd.channels.catalogue import KINDS
from berinia_webhookd.config.load import load
from berinia_webhookd.config.settings import Settings

TOKEN = "0123456789abcdef0123456789abcdef"
PUBLIC_URL = "https://app.example.com"
SMS_PATH = "/webhook/sms-response"
PATIENCE_SECONDS = 180

# Appends what it gets to a file beside itself, so that a test sees what really arrived, in order.
RECORDER = """
import json, pathlib, time

SEEN = pathlib.Path(__file__).with_name("seen.jsonl")
HOLD = pathlib.Path(__file__).with_name("hold")


class Recorder:
    def run(self, input_data):
        with SEEN.open("a") as seen:
            seen.write(json.dumps(input_data) + "\\n")
        while HOLD.exists():
            time.sleep(0.01)
        return {"status": "success", "response": "noted"}
"""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Daemon:
    """Starts, watches and ends one `berinia-webhookd serve`."""

    role: tuple[str, ...] = ("serve", "--port", "0")
    loop_guard = False  # tests send the same text again and again, faster than people

    def __init__(self, folder: Path, settings: str = "", *, agent: str = RECORDER) -> None:
        self.folder = folder
        self.agents = folder / "agents"
        self.agents.mkdir(parents=True, exist_ok=True)
        (self.agents / "recorder.py").write_text(agent)
        self.config = folder / "berinia.toml"
        self.config.write_text(
            f"""
            server.public_url = "{PUBLIC_URL}"
            rate_limit.requests = 100000
            rate_limit.verified_requests = 100001
            channels.sms.tokens = ["{TOKEN}"]
            agents.path = "{self.agents}"
            agents.defaults.loop_guard = {str(self.loop_guard).lower()}
            agents.ResponseListenerAgent.target = "python:recorder:Recorder"
            agents.ResponseListenerAgent.retry_schedule_seconds = [0.05, 0.05, 0.05]
            {settings}
            """
        )
        self.config.chmod(0o600)
        self.process: subprocess.Popen[bytes] | None = None
        self.lines: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._reader: threading.Thread | None = None
        self._ended = False
        self.port = 0

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("BERINIA_")}
        state = self.folder / "state"
        state.mkdir(mode=0o700, exist_ok=True)
        return {**kept, "STATE_DIRECTORY": str(state), "RUNTIME_DIRECTORY": str(state)}

    @property
    def settings(self) -> Settings:
        """Its settings, as it would read them now."""
        how: dict[str, Any] = {"kinds": KINDS, "environ": self.environment}
        return load(working_folder=self.folder, config_file=self.config, **how).settings

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "berinia_webhookd", "--config", str(self.config), *words]

    def run(
        self, *words: str, check: bool = True, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run another command of the program beside the daemon."""
        done = subprocess.run(
            self.command(*words),
            env={**self.environment, **(environment or {})},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def start(
        self,
        *flags: str,
        environment: Mapping[str, str] | None = None,
        launcher: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
    ) -> Daemon:
        """Start it and wait until it listens; `launcher` is a command that starts ours."""
        self.launch(*flags, environment=environment, launcher=launcher, pass_fds=pass_fds)
        return self.wait_until_started()

    def launch(
        self,
        *flags: str,
        environment: Mapping[str, str] | None = None,
        launcher: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start the process and wait for nothing."""
        self._ended = False
        self.lines = []
        self.process = subprocess.Popen(
            [*launcher, *self.command(*self.role, *flags)],
            env={**self.environment, **(environment or {})},
            cwd=self.folder,
            pass_fds=pass_fds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self._reader = threading.Thread(target=self._read, args=(self.process,), daemon=True)
        self._reader.start()

    def wait_until_started(self) -> Daemon:
        """Wait until it listens, and know its port (a Unix socket has none)."""
        port = str(self.wait_for("server.started")["address"]).rpartition(":")[2]
        self.port = int(port) if port.isdigit() else 0
        return self

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            with self._news:
                try:
                    self.lines.append(json.loads(line))
                except ValueError:
                    self.lines.append({"event": "not json", "text": line.decode(errors="replace")})
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def wait_for(self, event: str, *, count: int = 1, **fields: object) -> dict[str, Any]:
        """The `count`-th log line with this event and these fields; waits for it if need be."""

        def found() -> list[dict[str, Any]]:
            return [
                line
                for line in self.lines
                if line.get("event") == event and fields.items() <= line.items()
            ]

        deadline = time.monotonic() + PATIENCE_SECONDS
        with self._news:
            while len(found()) < count:
                if self._ended or not self._news.wait(deadline - time.monotonic()):
                    raise AssertionError(
                        f"no {count}× {event} {fields} in:\n"
                        + "\n".join(json.dumps(line) for line in self.lines[-40:])
                    )
            return found()[count - 1]

    def request(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request(method, target, body, dict(headers or {}))
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def sms(self, fields: Mapping[str, str] | None = None, **changes: str) -> Answer:
        """Send a message exactly as Twilio would, signed by Twilio's own library."""
        return self.post_sms(*signed_sms(fields or sample_sms(**changes)))

    def post_sms(self, body: bytes, headers: Mapping[str, str], target: str = SMS_PATH) -> Answer:
        return self.request("POST", target, body, headers)

    def seen(self) -> list[dict[str, Any]]:
        """What the agent got so far, oldest first."""
        path = self.agents / "seen.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]

    def wait_until_seen(self, count: int) -> list[dict[str, Any]]:
        """What the agent got, once that is `count` messages (it says so before it holds)."""
        pause = threading.Event()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(seen := self.seen()) < count:
            if time.monotonic() > deadline:
                raise AssertionError(f"the agent has seen {len(seen)} messages, not {count}")
            pause.wait(0.01)
        return seen

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def reload(self, *, count: int = 1) -> dict[str, Any]:
        """SIGHUP, and what the daemon says to it; `count` counts successful reloads."""
        self.send_signal(signal.SIGHUP)
        return self.wait_for("config.reloaded", count=count)

    def kill(self) -> None:
        """`kill -9`: nothing gets a chance to tidy up."""
        assert self.process is not None
        self.process.kill()
        self._finish()

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        self.send_signal(signal.SIGTERM)
        return self.wait_until_ended()

    def wait_until_ended(self) -> int:
        """Wait for the process to end by itself, and tell its exit status."""
        return self._finish()

    def _finish(self) -> int:
        assert self.process is not None
        assert self._reader is not None
        status = self.process.wait(PATIENCE_SECONDS)
        self._reader.join(PATIENCE_SECONDS)
        assert self.process.stderr is not None
        self.process.stderr.close()
        self.process = None
        return status

    def close(self) -> None:
        if self.process is not None:
            self.kill()


_sids = iter(range(1, 10**9))


def sample_sms(**changes: str) -> dict[str, str]:
    """The fields of an inbound message, with a fresh SID."""
    return {
        "ToCountry": "FR",
        "NumMedia": "0",
        "From": "+33639980001",
        "To": "+33639980002",
        "Body": "Bonjour, je suis intéressé 🙂",
        "AccountSid": "AC" + "0" * 32,
        "ApiVersion": "2010-04-01",
        "MessageSid": f"SM{next(_sids):032x}",
        **changes,
    }


def signed_sms(
    fields: Mapping[str, str] | Sequence[tuple[str, str]],
    *,
    url: str = PUBLIC_URL + SMS_PATH,
    token: str = TOKEN,
) -> tuple[bytes, dict[str, str]]:
    """Body and headers as Twilio sends them."""
    signature = RequestValidator(token).compute_signature(url, dict(fields))
    return urlencode(fields).encode(), {
        "Content-Type": "application/x-www-form-urlencoded; charset=UTF-8",
        "X-Twilio-Signature": signature,
        "User-Agent": "TwilioProxy/1.1",
    }
