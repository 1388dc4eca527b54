"""What a message costs on other channels, beside an SMS as Twilio sends it: the whole daemon."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import FIRST_MESSAGES, MOST_PER_SECOND, Bench, Result, medians, say
from daemon import LOG_AGENT, Installation
from load import HERE, full_load, warm_up
from messages import (
    DECLARED,
    MAIL,
    SMS,
    TOKEN,
    WHATSAPP,
    Endpoint,
    write_declared_messages,
    write_mails,
    write_messages,
    write_whatsapp_messages,
)
from processes import running

MAILS_PER_SECOND = 2_500  # which is more than it takes: wrk has them all in memory
SETTINGS = f"""
{LOG_AGENT}
agents.AdminInterpreterAgent.target = "log:"
agents.MetaAgent.target = "python:noop_agent:answer"
agents.path = "{HERE}"
agents.python = "{sys.executable}"
channels.email.signing_keys = ["{TOKEN}"]
channels.whatsapp.reply_wait_seconds = 20
[channels.declared]
kind = "declared"
agent = "ResponseListenerAgent"
verify = "hmac-sha256"
signature = "X-Hub-Signature-256: sha256={{hex}}"
signed = "{{body}}"
secrets = ["{TOKEN}"]
[[channels.declared.event]]
id = ["MessageSid"]
sender = "From"
recipient = "To"
text = "Body"
"""


@dataclass(frozen=True)
class Kind:
    """Messages of one kind.

    Args:
        endpoint: where to.
        write: makes a file, of how many, from which number on.
        per_second: more than are taken.
        answered: an agent runs, and what it returns is the answer.
    """

    endpoint: Endpoint
    write: Callable[..., Path]
    per_second: int = MOST_PER_SECOND
    answered: bool = False


def _whole_sms(file: Path, count: int, *, first: int) -> Path:
    return write_messages(file, count, first=first, whole=True)


KINDS = {
    "SMS": Kind(SMS, _whole_sms),
    "declared channel, HMAC": Kind(DECLARED, write_declared_messages),
    "mail of 30 KB with an attachment": Kind(MAIL, write_mails, MAILS_PER_SECOND),
    "WhatsApp, answered inline": Kind(WHATSAPP, write_whatsapp_messages, answered=True),
}


def measure(bench: Bench) -> Result:
    """By kind of message."""
    files, first_files = {}, {}
    for name, kind in KINDS.items():
        count = bench.seconds * kind.per_second
        files[name] = kind.write(bench.new_folder(name), count, first=0)
        first_files[name] = kind.write(bench.new_folder(name), FIRST_MESSAGES, first=count)

    def one_run(name: str) -> Result:
        kind, folder = KINDS[name], bench.new_folder(name)
        daemon = Installation(folder, SETTINGS)
        with running(daemon.start(core=bench.cores.server, dispatch=kind.answered)) as server:
            first = warm_up(server.port, first_files[name], kind.endpoint)
            result = full_load(
                server,
                files[name],
                core=bench.cores.load,
                seconds=bench.seconds,
                endpoint=kind.endpoint,
            )
        accepted = first + result["accepted"]
        daemon.must_hold(accepted, repeated=result["repeated"])
        if kind.answered:
            replies = daemon.replies("inline")
            if replies < accepted:
                raise SystemExit(f"{accepted} answers, {replies} replies in them")
        say(f"  {name:34} {result['rate']:8.0f}/s  {result['cpu_us']:6.0f} µs CPU")
        shutil.rmtree(folder)
        return {key: result[key] for key in ("rate", "cpu_us", "p50_ms", "p99_ms")}

    return {name: medians(runs) for name, runs in bench.take_turns([*KINDS], one_run).items()}
