"""Agents of a real daemon: what is left of them when it dies, and what providers notice of them."""

from __future__ import annotations

import asyncio
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ..outbound.agent_world import MARK, marked_processes, until, until_gone
from .daemon import RECORDER, Answer, Daemon
from .providers import WHATSAPP_PATH, posted_whatsapp, sample_whatsapp

# Leaves a grandchild in a session of its own, says so, and never returns.
HANGING = """
import os, pathlib, signal, time

SIGN = pathlib.Path(__file__).with_name("hanging")


class Recorder:
    def run(self, input_data):
        if input_data["attempt"] > 1:
            return {"response": "this time"}
        if os.fork() == 0:
            os.setsid()
            time.sleep(3600)
        if input_data["data"]["body"] == "stop the guardian":
            os.kill(os.getppid(), signal.SIGSTOP)
        SIGN.touch()
        time.sleep(3600)
"""


@pytest.mark.parametrize("body", ["hang", "stop the guardian"])
def test_nothing_outlives_a_daemon_that_is_killed(tmp_path: Path, body: str) -> None:
    """After `kill -9` no agent host, and nothing that its agents started, is left, even where an
    agent had stopped what watches over it; the next start tries the event again.
    """
    mark = uuid.uuid4().hex
    daemon = Daemon(tmp_path, agent=HANGING)
    try:
        daemon.start(environment={MARK: mark})
        daemon.sms(Body=body)
        event_id = daemon.wait_for("attempt.started")["event_id"]
        asyncio.run(until((daemon.agents / "hanging").exists))
        assert len(marked_processes(mark)) == 4  # the daemon, a guardian, a host, a grandchild
        daemon.kill()
        asyncio.run(until_gone(mark))
        asyncio.run(until(lambda: not marked_processes(mark, fork_server=True)))
        daemon.start()
        daemon.wait_for("attempt.succeeded", event_id=event_id, attempt=2)
    finally:
        daemon.close()


# Fails in another way each time, for one sender alone.
FAILING = """
import os, time


class Recorder:
    def run(self, input_data):
        if input_data["data"]["sender"] != "+33639980666":
            return {"status": "success"}
        match input_data["attempt"]:
            case 1:
                os._exit(3)
            case 2:
                raise LookupError("no such lead")
            case 3:
                time.sleep(3600)
        return {"status": "error", "message": "never mind"}
"""


def test_every_failure_is_in_the_journal_with_its_kind_and_reason(tmp_path: Path) -> None:
    """`events show` tells what became of each attempt; others' messages are served in between."""
    settings = "agents.ResponseListenerAgent.timeout_seconds = 5"
    daemon = Daemon(tmp_path, settings, agent=FAILING)
    try:
        daemon.start()
        daemon.sms(From="+33639980666")
        failing = daemon.wait_for("event.accepted")["event_id"]
        daemon.wait_for("attempt.started", event_id=failing, attempt=3)  # which hangs
        daemon.sms(From="+33639980777")
        other = daemon.wait_for("event.accepted", count=2)["event_id"]
        daemon.wait_for("attempt.succeeded", event_id=other, attempt=1)
        daemon.wait_for("entry.dead", event_id=failing)
        shown = json.loads(daemon.run("events", "show", failing, "--json").stdout)
    finally:
        daemon.close()
    attempts = [(attempt["outcome"], attempt["error"]) for attempt in shown["attempts"]]
    assert [outcome for outcome, _ in attempts] == ["crash", "exception", "timeout", "error"]
    reasons = ["exit code 3", "LookupError: no such lead", "no answer within 5 s", "never mind"]
    assert all(reason in error for reason, (_, error) in zip(reasons, attempts, strict=True))


# Two agents with one memory; a file named `busy` holds the second one up.
TWO_AGENTS = """
import pathlib, time

HOLD = pathlib.Path(__file__).with_name("busy")


class Memory:
    asked = False


class Asking:
    def run(self, input_data):
        if input_data["content"] == "oui":
            return {"response": "merci" if Memory.asked else "Pardon ?"}
        Memory.asked = True
        return {"response": "Répondez par 'oui'"}


class Slow:
    def run(self, input_data):
        HOLD.with_name("begun").touch()
        while HOLD.exists():
            time.sleep(0.01)
        return {"response": "voilà" if Memory.asked else "seul"}
"""


def test_two_chats_two_agents_and_one_memory(tmp_path: Path) -> None:
    """While one chat keeps their host busy, the other's answer is told 202 and then understood; an
    agent elsewhere is served meanwhile.
    """
    settings = """
    agents.max_hosts = 2
    agents.AdminInterpreterAgent.target = "python:recorder:Asking"
    agents.AdminInterpreterAgent.host = "berinia"
    agents.MetaAgent.target = "python:recorder:Slow"
    agents.MetaAgent.host = "berinia"
    agents.ResponseListenerAgent.target = "python:other:Recorder"
    channels.whatsapp.reply_wait_seconds = 20
    """
    daemon = Daemon(tmp_path, agent=TWO_AGENTS)
    daemon.config.write_text(
        daemon.config.read_text().replace(
            'agents.ResponseListenerAgent.target = "python:recorder:Recorder"', settings
        )
    )
    (daemon.agents / "other.py").write_text(RECORDER)
    hold = daemon.agents / "busy"
    hold.touch()

    def send(**message: object) -> Answer:
        return daemon.request("POST", WHATSAPP_PATH, *posted_whatsapp(sample_whatsapp(**message)))

    try:
        daemon.start()
        assert send(content="Supprimer ?").json()["response"] == "Répondez par 'oui'"
        with ThreadPoolExecutor() as chats:
            slow = chats.submit(send, group="Ventes", content="campagne")
            asyncio.run(until((daemon.agents / "begun").exists))
            yes = chats.submit(send, content="oui")
            daemon.wait_for("event.accepted", count=3)
            daemon.sms()
            daemon.wait_for("attempt.succeeded", agent="ResponseListenerAgent")
            assert not yes.done()
            hold.unlink()
            assert slow.result().json()["response"] == "voilà"
            assert yes.result().json()["response"] == "merci"
    finally:
        daemon.close()


def test_a_caller_whose_host_stays_busy_is_told_202(tmp_path: Path) -> None:
    """It waits as long as for a slow agent, and the message is answered in its turn."""
    settings = """
    agents.AdminInterpreterAgent.target = "python:recorder:Asking"
    agents.MetaAgent.target = "python:recorder:Slow"
    agents.defaults.host = "berinia"
    channels.whatsapp.reply_wait_seconds = 0.2
    """
    daemon = Daemon(tmp_path, settings, agent=TWO_AGENTS)
    hold = daemon.agents / "busy"
    hold.touch()
    try:
        daemon.start()
        for message in ({"group": "Ventes"}, {"content": "oui"}):
            body, headers = posted_whatsapp(sample_whatsapp(**message))
            assert daemon.request("POST", WHATSAPP_PATH, body, headers).status == 202
            asyncio.run(until((daemon.agents / "begun").exists))
        hold.unlink()
        daemon.wait_for("attempt.succeeded", count=2)
    finally:
        daemon.close()
