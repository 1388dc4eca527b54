"""The package in a machine, as an operator whose agents live in /root/berinia installs it."""

from __future__ import annotations

import json

from tests.end_to_end.daemon import PUBLIC_URL, RECORDER, TOKEN

from .machine import Machine, wait_until

UNITS = ("berinia-webhook.socket", "berinia-webhook.service")
SERVICE = "berinia-webhook.service"
AGENTS = "/root/berinia/infra-ia"
DROP_INS = f"/etc/systemd/system/{SERVICE}.d"
CONTRIB = "/usr/share/berinia-webhookd/contrib"
CONFIG = f"""
server.public_url = "{PUBLIC_URL}"
rate_limit.requests = 100000
rate_limit.verified_requests = 100001
channels.email.enabled = false
agents.path = "{AGENTS}/agents"
agents.defaults.loop_guard = false
agents.ResponseListenerAgent.target = "python:recorder:Recorder"
agents.ResponseListenerAgent.retry_schedule_seconds = [0.05, 0.05, 0.05]
agents.MetaAgent.target = "log:"
agents.AdminInterpreterAgent.target = "log:"
"""


def install(machine: Machine, package: str) -> str:
    """By apt, which needs nothing from elsewhere; returns what it printed."""
    words = ("apt-get", "--yes", "--allow-downgrades", "--no-install-recommends", "install")
    return machine.run(*words, package).stdout


def configure(machine: Machine, settings: str = "", *, with_drop_in: bool = True) -> None:
    """The files of /etc/berinia-webhookd, access by the commands in the drop-in's comments, and
    that drop-in.
    """
    config = machine.path("/etc/berinia-webhookd/config.toml")
    config.write_text(CONFIG + settings)
    env = machine.path("/etc/berinia-webhookd/.env")
    env.write_text(env.read_text().replace("\nTWILIO_TOKEN=\n", f"\nTWILIO_TOKEN={TOKEN}\n"))
    for folder in ("infra-ia/agents", "infra-ia/data", "infra-ia/logs", "unified_logs"):
        machine.path(f"/root/berinia/{folder}").mkdir(parents=True, exist_ok=True)
    machine.write(f"{AGENTS}/agents/recorder.py", RECORDER)
    drop_in = f"{CONTRIB}/systemd/agents-in-root.conf"
    commands = [
        line.removeprefix("#").strip()
        for line in machine.path(drop_in).read_text().splitlines()
        if line.startswith("#     ") and line.split()[1] in ("cd", "chgrp", "chmod", "find")
    ]
    assert len(commands) == 5
    machine.type("\n".join(commands))
    if with_drop_in:
        machine.type(f"install -D -m 644 {drop_in} -t {DROP_INS}\nsystemctl daemon-reload")


def enable(machine: Machine) -> None:
    machine.run("systemctl", "enable", "--now", *UNITS)
    assert machine.show(SERVICE, "ActiveState") == "active"


def seen(machine: Machine) -> set[str]:
    """The messages that the agent has seen."""
    file = machine.path(f"{AGENTS}/agents/seen.jsonl")
    lines = file.read_text().splitlines() if file.exists() else []
    return {json.loads(line)["data"]["message_sid"] for line in lines}


def wait_until_delivered(machine: Machine, messages: set[str]) -> None:
    wait_until(lambda: messages <= seen(machine), lambda: machine.status(SERVICE))
