"""Samples of channels whose provider alone has the key that signs: `send` makes a pair of its own,
which the daemon takes from this machine alone, and attacks on it.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from berinia_webhookd.channels.catalogue import KINDS, build
from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.clock import now
from berinia_webhookd.config.load import load
from berinia_webhookd.model import ChannelName, SampleKey
from berinia_webhookd.own_requests import InstallationKey, Purpose
from berinia_webhookd.sample_keys import SampleKeyFile, file_of

from .daemon import PATIENCE_SECONDS, PUBLIC_URL, Answer, Daemon

TELNYX, SENDGRID = ChannelName("telnyx"), ChannelName("sendgrid")
PROVIDER: Final = Ed25519PrivateKey.generate()
PUBLIC: Final = base64.b64encode(PROVIDER.public_key().public_bytes_raw()).decode()
OF_SENDGRID: Final = base64.b64encode(
    ec.generate_private_key(ec.SECP256R1())
    .public_key()
    .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
).decode()
CHANNELS: Final = f"""
[channels.telnyx]
preset = "telnyx"
agent = "ResponseListenerAgent"
secrets = ["{PUBLIC}"]
opt_out_words = {{ stop = ["STOP"] }}

[channels.sendgrid]
preset = "sendgrid-events"
agent = "ResponseListenerAgent"
secrets = ["{OF_SENDGRID}"]
"""


@pytest.fixture
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with two channels whose keys nobody here has."""
    with closing(Daemon(tmp_path_factory.mktemp("samples"), CHANNELS)) as daemon:
        daemon.start()
        yield daemon


def runtime(daemon: Daemon) -> Path:
    return daemon.folder / "state"


def keys(daemon: Daemon) -> list[Path]:
    """The key files that lie there."""
    return list(runtime(daemon).glob(file_of(Path(), "*").name))


def events(daemon: Daemon) -> list[Any]:
    """The events there are, each as `events show` has it, oldest first."""
    listed = json.loads(daemon.run("events", "list", "--json").stdout)
    return [
        json.loads(daemon.run("events", "show", one["id"], "--json").stdout)
        for one in reversed(listed)
    ]


@pytest.mark.parametrize("channel", [TELNYX, SENDGRID])
def test_a_sample_is_only_logged(running: Daemon, channel: ChannelName) -> None:
    """It is marked, its agent gets nothing of it, and its key is gone with the command."""
    assert " 200 " in running.run("send", channel, "--count", "2").stdout
    running.wait_for("agent.event", count=2, agent="Samples", channel=channel)
    assert keys(running) == []
    assert running.seen() == []
    for one in events(running):
        assert one["data"]["sample"] is True
        assert one["agent"] == "Samples"


def test_a_sample_for_its_agent(running: Daemon) -> None:
    """With `--to-agent`, and marked all the same."""
    running.run("send", TELNYX, "--to-agent", "--set", "text=Bonjour")
    (seen,) = running.wait_until_seen(1)
    assert seen["data"]["sample"] is True
    assert seen["data"]["body"] == "Bonjour"


def test_a_wrong_signature(running: Daemon) -> None:
    """Is one."""
    assert " 403 " in running.run("send", TELNYX, "--bad-signature").stdout
    assert events(running) == []


def test_elsewhere_it_is_good_for_nothing(running: Daemon) -> None:
    """So nothing is sent, and the reason is said."""
    for words in (("--to", "192.0.2.1:80", "--really"), ("--to", "192.0.2.1:80")):
        done = running.run("send", TELNYX, *words, check=False)
        assert done.returncode in (1, 2)
        assert "this machine" in done.stderr
    assert running.stop() == 0
    done = running.run("send", TELNYX, check=False)
    assert done.returncode == 1
    assert "only Telnyx has the key" in done.stderr


def test_a_command_that_was_killed(running: Daemon) -> None:
    """Its key is good for a minute at the most, and the next command takes it away."""
    sending = subprocess.Popen(
        running.command("send", TELNYX, "--count", "1000", "--rate", "2"),
        env=running.environment,
        cwd=running.folder,
        stdout=subprocess.DEVNULL,
    )
    running.wait_for("event.accepted", agent="Samples")
    sending.send_signal(signal.SIGKILL)
    sending.wait(PATIENCE_SECONDS)
    (left,) = keys(running)
    assert left.stat().st_mode & 0o777 == 0o600
    os.utime(left, (now().timestamp() - 61,) * 2)
    running.run("send", TELNYX)
    assert keys(running) == []


# --- attacks ---


class Attacker:
    """Somebody with the samples of one `send`, their key file, and all that is in them."""

    def __init__(self, daemon: Daemon, *, to_agent: bool = False) -> None:
        self.daemon = daemon
        environ = daemon.environment
        loaded = load(
            {},
            kinds=KINDS,
            environ=environ,
            working_folder=daemon.folder,
            config_file=daemon.config,
        )
        self.channels = build(loaded.settings.channels, (PUBLIC_URL,))
        self.key = InstallationKey.read(runtime(daemon))
        self.signing, self.public = self.channels[TELNYX].for_samples()
        self.file = SampleKeyFile(runtime(daemon), TELNYX, SampleKey(self.public, to_agent))
        self.file.renew(now())

    @property
    def path(self) -> Path:
        """Of the key."""
        return file_of(runtime(self.daemon), self.file.nonce)

    def post(
        self,
        headers: Mapping[str, str | None] | None = None,
        *,
        signing: Channel | None = None,
        key: InstallationKey | None = None,
        purpose: Purpose = Purpose.SAMPLE,
        body: Callable[[bytes], bytes] = lambda body: body,
        fields: Mapping[str, str] | None = None,
    ) -> Answer:
        """Post a sample, changed."""
        made = (signing or self.signing).sign(fields or {}, base_url=PUBLIC_URL, now=now())
        made = made.marked(key or self.key, purpose, now(), self.file.nonce)
        sent = {**made.headers, **(headers or {})}
        kept = {name: value for name, value in sent.items() if value is not None}
        return self.daemon.request("POST", made.path, body(made.body), kept)


def test_what_else_a_sample_must_be(running: Daemon) -> None:
    """From this machine, through no proxy, with this installation's mark, as it was signed."""
    attacker = Attacker(running)
    assert attacker.post().status == 200
    for headers in (
        {"X-Forwarded-For": "203.0.113.9"},
        {"Via": "1.1 proxy"},
        {"X-Real-IP": "127.0.0.1"},
        {"Host": "app.example.com"},
        {"Berinia-Probe": None},
        {"Telnyx-Timestamp": "1"},
    ):
        assert attacker.post(headers).status == 403, headers
    assert attacker.post(key=InstallationKey(b"x" * 32)).status == 403
    assert attacker.post(purpose=Purpose.PROBE).status == 403
    assert attacker.post(body=lambda body: body + b" ").status == 403
    stranger, _ = attacker.channels[TELNYX].for_samples()
    assert attacker.post(signing=stranger).status == 403
    other, _ = attacker.channels[SENDGRID].for_samples()
    assert attacker.post(signing=other).status == 403
    whole = attacker.path.read_text()
    for public in ("", json.loads(whole)["public"][:-8]):
        attacker.path.write_text(json.dumps({**json.loads(whole), "public": public}))
        assert attacker.post().status == 403, public
    attacker.path.write_text(whole)
    attacker.path.chmod(0o640)
    assert attacker.post().status == 403
    attacker.path.chmod(0o600)
    assert attacker.post().status == 200
    attacker.path.unlink()
    assert attacker.post().status == 403
    assert [one["data"]["sample"] for one in events(running)] == [True, True]


def from_provider(daemon: Daemon, event: Mapping[str, Any]) -> Answer:
    """Post what Telnyx itself signs."""
    body = json.dumps({"data": event}).encode()
    at = str(int(now().timestamp()))
    signature = base64.b64encode(PROVIDER.sign(f"{at}|".encode() + body)).decode()
    headers = {"Telnyx-Timestamp": at, "Telnyx-Signature-Ed25519": signature}
    headers |= {"Content-Type": "application/json"}
    return daemon.request("POST", "/webhook/telnyx", body, headers)


def test_a_sample_takes_no_real_messages_place(running: Daemon) -> None:
    """Nor is it one: the same id from the provider is a new event, and reaches its agent. Resent it
    is the same sample.
    """
    attacker = Attacker(running)
    for _ in range(2):
        assert attacker.post(fields={"data.id": "e-1", "data.payload.id": "m-1"}).status == 200
    real = {
        "id": "e-1",
        "event_type": "message.received",
        "payload": {
            "id": "m-1",
            "from": {"phone_number": "+33639980001"},
            "to": [{"phone_number": "+33639980002"}],
            "text": "Oui",
            "direction": "inbound",
        },
    }
    assert from_provider(running, real).status == 200
    (seen,) = running.wait_until_seen(1)
    assert seen["data"]["body"] == "Oui"
    assert "sample" not in seen["data"]
    assert [one["data"]["sample"] for one in events(running)] == [True, False]


def test_a_samples_stop_changes_no_consent(running: Daemon) -> None:
    """Nobody but the provider says what somebody wants."""
    running.run("send", TELNYX, "--set", "text=STOP", "--set", "sender=+33639980001")
    running.wait_for("agent.event", agent="Samples")
    assert json.loads(running.run("consents", "list", "--json").stdout) == []


def test_a_sample_that_cannot_be_read_stays_one(running: Daemon) -> None:
    """It is kept as rejected; read again after a fix, it is a sample still."""
    broken = """preset = "telnyx"
event = [
  { where = "data.event_type=message.received", id = "data.id", required = ["header:X-No"] },
]
"""
    sound = running.config.read_text()
    running.config.write_text(sound.replace('preset = "telnyx"', broken))
    running.reload()
    running.run("send", TELNYX)
    (rejected,) = json.loads(running.run("events", "list", "--state", "rejected", "--json").stdout)
    running.config.write_text(sound)
    running.reload(count=2)
    running.run("events", "replay", rejected["id"])
    running.wait_for("agent.event", agent="Samples", channel=TELNYX)
    assert running.seen() == []
