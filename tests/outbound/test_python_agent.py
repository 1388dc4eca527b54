"""Python agents in real hosts: shapes, what they get, what their answers mean."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from berinia_webhookd.model import (
    AgentName,
    Attachment,
    AutoSubmitted,
    EventId,
    OptOut,
    OutcomeKind,
)
from berinia_webhookd.outbound.contract import AgentUnavailable
from berinia_webhookd.outbound.payload import envelope
from berinia_webhookd.trace_context import traceparent_of

from ..full_disk import full_disk
from .agent_world import AGENTS, HostWorld, attempt, make_entry

AGENT = AgentName("Agent")


@pytest.mark.parametrize(
    "name",
    [
        "coroutine_function",
        "WithHandle",
        "instance",
        "callable_instance",
        "bound_method",
        "Outer.Inner",
    ],
)
async def test_every_shape_is_called(hosts: HostWorld, name: str) -> None:
    """Functions, coroutine functions, classes, instances, and what lies within them."""
    agents = hosts.open({AGENT: f"shapes:{name}"})
    entry = make_entry(AGENT)
    outcome = await agents.attempt(entry, timeout_seconds=60)
    assert (outcome.kind, outcome.reply) == (OutcomeKind.SUCCESS, entry.event_id)


async def test_async_agents_keep_their_loop(hosts: HostWorld) -> None:
    """Connections and locks of one attempt can be used by the next."""
    agents = hosts.open({AGENT: "shapes:WithAsyncHandle"})
    replies = [(await attempt(agents, AGENT)).reply or "" for _ in range(3)]
    assert len({reply.split()[1] for reply in replies}) == 1


async def test_handle_wins_over_run(hosts: HostWorld) -> None:
    """An agent with both gets the envelope."""
    agents = hosts.open({AGENT: "shapes:WithBoth"})
    assert (await attempt(agents, AGENT)).reply == "handle"


async def test_handle_gets_a_cloudevent(hosts: HostWorld) -> None:
    """The whole envelope, with the provider's values untouched."""
    agents = hosts.open({AGENT: "shapes:function"})
    entry = make_entry(AGENT, "  Oui 🙂\n", attempt=2, message_id="SM1", raw={"Body": "  Oui 🙂\n"})
    outcome = await agents.attempt(entry, timeout_seconds=60)
    assert json.loads(outcome.reply or "") == {
        "specversion": "1.0",
        "id": entry.event_id,
        "source": "/channels/sms",
        "type": "berinia.sms.received",
        "subject": "+33639980001",
        "time": "2026-03-01T12:00:00+00:00",
        "datacontenttype": "application/json",
        "data": {
            "channel": "sms",
            "sender": "+33639980001",
            "recipient": "+33639980002",
            "subject": None,
            "body": "  Oui 🙂\n",
            "message_id": "SM1",
            "conversation": "sms:+33639980001:+33639980002",
            "group": None,
            "kind": "message",
            "received_at": "2026-03-01T12:00:00+00:00",
            "attempt": 2,
            "attachments": [],
            "opt_out": None,
            "consent": None,
            "auto_submitted": None,
            "signs": [],
            "messages": [
                {
                    "id": entry.event_id,
                    "sender": "+33639980001",
                    "subject": None,
                    "body": "  Oui 🙂\n",
                    "message_id": "SM1",
                    "received_at": "2026-03-01T12:00:00+00:00",
                    "attachments": [],
                    "signs": [],
                    "raw": {"Body": "  Oui 🙂\n"},
                    "raw_multi": {},
                }
            ],
            "traceparent": traceparent_of(entry.event_id),
            "raw": {"Body": "  Oui 🙂\n"},
            "raw_multi": {},
        },
    }


SMS_INPUT = {
    "action": "process_sms_response",
    "data": {
        "sender": "+33639980001",
        "recipient": "+33639980002",
        "body": "Bonjour",
        "timestamp": "2026-03-01T12:00:00+00:00",
        "message_sid": "SM1",
        "raw_data": {"Body": "Bonjour"},
        "opt_out": "STOP",
        "consent": None,
        "auto_submitted": None,
    },
}
EMAIL_INPUT = {
    "action": "process_email_response",
    "data": {
        "sender": "anna@example.com",
        "recipient": "+33639980002",
        "subject": "Rendez-vous",
        "body": "Bonjour",
        "timestamp": "2026-03-01T12:00:00+00:00",
        "message_id": "<1@example.com>",
        "raw_data": {"Body": "Bonjour"},
        "opt_out": None,
        "consent": None,
        "auto_submitted": "list",
    },
}
WHATSAPP_INPUT = {
    "message": "Bonjour",
    "content": "Bonjour",
    "sender": "+33639980001",
    "recipient": "BerinIA",
    "profile_name": "Anna",
    "message_type": "whatsapp",
    "source": "whatsapp",
    "group": "🤖 Support IA / Chatbot",
    "author": "+33639980001",
    "opt_out": None,
    "consent": None,
    "auto_submitted": None,
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"message_id": "SM1", "opt_out": OptOut.STOP}, SMS_INPUT, id="sms"),
        pytest.param(
            {
                "channel": "email",
                "sender": "anna@example.com",
                "subject": "Rendez-vous",
                "message_id": "<1@example.com>",
                "auto_submitted": AutoSubmitted.LIST,
            },
            EMAIL_INPUT,
            id="email",
        ),
        pytest.param(
            {"channel": "whatsapp", "profile_name": "Anna", "group": "🤖 Support IA / Chatbot"},
            WHATSAPP_INPUT,
            id="whatsapp",
        ),
        pytest.param(
            {"channel": "whatsapp", "profile_name": "Anna"},
            {**WHATSAPP_INPUT, "group": "Direct Message"},
            id="direct",
        ),
        pytest.param(
            {"channel": "whatsapp", "group": "Discussion libre", "opt_out": OptOut.HELP},
            {
                **WHATSAPP_INPUT,
                "group": "Discussion libre",
                "profile_name": "Discussion libre (WhatsApp)",
                "opt_out": "HELP",
                "consent": None,
            },
            id="no name",
        ),
    ],
)
async def test_run_gets_what_berinias_agents_read(
    hosts: HostWorld, changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    """BerinIA's own form of each channel, plus `event_id` and `attempt`."""
    agents = hosts.open({AGENT: "shapes:WithRun"})
    entry = make_entry(AGENT, **changes)
    outcome = await agents.attempt(entry, timeout_seconds=60)
    assert json.loads(outcome.reply or "") == {
        **expected,
        "event_id": entry.event_id,
        "attempt": 1,
    }


async def test_run_gets_a_neutral_form_of_other_channels(hosts: HostWorld) -> None:
    """The data of the envelope, flat, where the provider has no form of its own."""
    agents = hosts.open({AGENT: "shapes:WithRun"})
    entry = make_entry(AGENT, channel="another", message_id="1")
    outcome = await agents.attempt(entry, timeout_seconds=60)
    given = json.loads(outcome.reply or "")
    assert given["action"] == "process_event"
    assert given["data"] == envelope(entry)["data"]
    assert (given["event_id"], given["attempt"]) == (entry.event_id, 1)
    assert agents.given(entry) == ("run", given)


async def test_what_an_agent_gets_can_be_shown(hosts: HostWorld) -> None:
    """What it got is what the console says that it gets."""
    agents = hosts.open({AGENT: "shapes:function"})
    entry = make_entry(AGENT, "Bonjour", message_id="SM1")
    outcome = await agents.attempt(entry, timeout_seconds=60)
    assert agents.given(entry) == ("handle", json.loads(outcome.reply or ""))


@pytest.mark.parametrize(
    ("returned", "kind", "reply", "error"),
    [
        (None, "success", None, None),
        ({}, "success", None, None),
        ([1, 2], "success", None, None),
        ("text", "success", None, None),
        ({"response": "a", "message": "b"}, "success", "a", None),
        ({"response": " \n", "message": "b"}, "success", "b", None),
        ({"message": 5, "result": "c"}, "success", "c", None),
        ({"result": {"text": "c"}}, "success", None, None),
        ({"status": "success", "error": "x"}, "success", None, None),
        ({"status": "error", "message": "no"}, "error", "no", "no"),
        ({"status": "error", "error": "why", "response": "no"}, "error", "no", "why"),
        ({"status": "error"}, "error", None, "the agent returned an error"),
        ({"status": "rejected", "message": "never"}, "rejected", None, "never"),
        ({"status": "Error"}, "success", None, None),
    ],
)
async def test_what_an_answer_means(
    hosts: HostWorld, returned: Any, kind: str, reply: str | None, error: str | None
) -> None:
    """Returning is success unless the status says otherwise; the first text is the reply."""
    agents = hosts.open({AGENT: "shapes:echo"})
    outcome = await attempt(agents, AGENT, json.dumps(returned))
    assert (outcome.kind, outcome.reply, outcome.error) == (kind, reply, error)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("missing_module:Agent", "ModuleNotFoundError: No module named 'missing_module'"),
        ("shapes:Missing", "has no attribute 'Missing'"),
        ("shapes:number", "shapes:number is no function and has neither handle nor run"),
        ("shapes:NeedsArguments", "missing 1 required positional argument: 'configuration'"),
        ("shapes:BrokenConstructor", "LookupError: no key in the configuration"),
    ],
)
async def test_an_agent_that_cannot_be_loaded_says_why(
    hosts: HostWorld, target: str, reason: str
) -> None:
    """With the exception behind it, whether at start or in an attempt; others are not disturbed."""
    agents = hosts.open({AGENT: target})
    with pytest.raises(AgentUnavailable, match=re.escape(reason)):
        await agents.load(AGENT)
    outcome = await attempt(agents, AGENT)
    assert outcome.kind is OutcomeKind.UNREACHABLE
    assert reason in (outcome.error or "")
    assert (await attempt(agents, "Friendly", "still")).reply == "still"


async def test_an_agent_without_target_and_registry_names_both_settings(hosts: HostWorld) -> None:
    """The hint says what to set."""
    agents = hosts.open({})
    with pytest.raises(AgentUnavailable) as raised:
        await agents.load(AGENT)
    assert raised.value.hint == "set agents.Agent.target or agents.registry"


@pytest.mark.parametrize("python", ["/does/not/exist", "/etc/passwd", "/bin/true"])
async def test_an_interpreter_that_is_none(hosts: HostWorld, python: str) -> None:
    """The reason names it, the hint its setting; nothing hangs."""
    agents = hosts.open({AGENT: "friendly:handle"}, f'agents.python = "{python}"')
    with pytest.raises(AgentUnavailable, match=f"no agent host: {python}: ") as raised:
        await agents.load(AGENT)
    assert "agents.python names the interpreter" in str(raised.value.hint)


async def test_an_interpreter_that_is_too_old(
    hosts: HostWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says which version is needed, not what of Python it lacks."""
    (tmp_path / "sitecustomize.py").write_text(
        "import socket, sys\nsys.version_info = (3, 8, 10)\nsys.version = '3.8.10 (default)'\n"
        "del socket.recv_fds\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    agents = hosts.open({AGENT: "friendly:handle"})
    with pytest.raises(AgentUnavailable, match=r"needs Python 3\.9 or newer; this is 3\.8\.10"):
        await agents.load(AGENT)


async def test_what_cannot_be_loaded_now_can_be_later(hosts: HostWorld, tmp_path: Path) -> None:
    """A mended module is found without a restart."""
    (tmp_path / "mending.py").write_text("broken =")
    agents = hosts.open({AGENT: "mending:handle"}, f'agents.path = "{tmp_path}"')
    with pytest.raises(AgentUnavailable, match="SyntaxError"):
        await agents.load(AGENT)
    (tmp_path / "mending.py").write_text("def handle(event):\n    return {'response': 'mended'}\n")
    await agents.load(AGENT)
    assert (await attempt(agents, AGENT)).reply == "mended"


async def test_agents_get_none_of_the_daemons_secrets(
    hosts: HostWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment is inherited, less what is the daemon's own."""
    withheld = {
        "TWILIO_TOKEN": "x",
        "MAILGUN_API_KEY": "x",
        "MAILGUN_SIGNING_KEY": "x",
        "BERINIA_WEBHOOKD_LOGS__PASSWORD": "x",
        "CREDENTIALS_DIRECTORY": "/run/credentials",
        "NOTIFY_SOCKET": "/run/notify",
        "WATCHDOG_USEC": "1",
        "WATCHDOG_PID": "1",
        "LISTEN_FDS": "1",
        "LISTEN_PID": "1",
        "LISTEN_FDNAMES": "x",
    }
    for name, value in {**withheld, "OPENAI_API_KEY": "theirs"}.items():
        monkeypatch.setenv(name, value)
    agents = hosts.open({AGENT: "shapes:environment"})
    environment = json.loads((await attempt(agents, AGENT)).reply or "")
    assert not environment.keys() & withheld.keys()
    assert environment["OPENAI_API_KEY"] == "theirs"
    granted = hosts.settings(
        {AGENT: "shapes:environment"}, 'agents.environment = ["TWILIO_TOKEN", "NOT_THERE"]'
    )
    agents.reconfigure(granted)
    environment = json.loads((await attempt(agents, AGENT)).reply or "")
    assert environment.keys() & withheld.keys() == {"TWILIO_TOKEN"}


async def test_agents_share_nothing_with_the_daemon(hosts: HostWorld) -> None:
    """Neither its descriptors nor its modules; their group is their own, and goes first when
    memory is short, last when the CPU is.
    """
    agents = hosts.open({AGENT: "shapes:surroundings"})
    found = json.loads((await attempt(agents, AGENT)).reply or "")
    kinds = sorted(what.partition(":")[0] for what in found["descriptors"].values())
    assert kinds == ["/dev/null", "pipe", "pipe", "socket"]
    daemons = {"berinia_webhookd", "orjson", "structlog", "aiohttp", "sqlalchemy"}
    assert not daemons & {name.partition(".")[0] for name in found["modules"]}
    assert "agent_calls" not in found["modules"]  # the name is the agents' to use
    assert found["path"][0] == str(AGENTS)
    assert not [folder for folder in found["path"] if folder.endswith("berinia_webhookd/outbound")]
    assert found["arguments"] == []
    assert found["stdin"] == ""
    assert found["group"]
    assert int(found["oom_score_adj"]) >= 500
    assert found["niceness"] > os.nice(0)
    ours = os.sched_getaffinity(0)
    assert set(found["cpus"]) == (ours - {min(ours)} or ours)


def left_in(folder: Path) -> set[Path]:
    return set(folder.iterdir())


def existing(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.exists()]


async def test_attachments_are_files_for_one_attempt(hosts: HostWorld) -> None:
    """They can be read by the agent, and are gone afterwards."""
    contents = [b"first", b"second"]
    attachments = tuple(
        Attachment(f"../{n}.pdf", "application/pdf", len(c), hashlib.sha256(c).hexdigest())
        for n, c in enumerate(contents)
    )

    async def fetch(event_id: EventId) -> Iterable[bytes]:
        return contents

    agents = hosts.open({AGENT: "shapes:read_attachments"}, attachments=fetch)
    outcome = await attempt(agents, AGENT, channel="email", attachments=attachments)
    known, read = json.loads(outcome.reply or "")
    assert read == ["first", "second"]
    assert [one["file_name"] for one in known] == ["../0.pdf", "../1.pdf"]
    paths = [Path(one["path"]) for one in known]
    assert existing([*paths, paths[0].parent]) == []


async def test_what_an_agent_says_is_logged_without_the_events_values(hosts: HostWorld) -> None:
    """Both streams, below Python as well, with the keys of the attempt."""
    agents = hosts.open({AGENT: "shapes:speak"})
    entry = make_entry(AGENT, "une affaire privée")
    with capture_logs() as lines:
        await agents.attempt(entry, timeout_seconds=60)
    said = [line for line in lines if line["event"] == "agent.output"]
    assert {line["event_id"] for line in said} == {entry.event_id}
    text = "\n".join(line["output"] for line in said)
    assert "from below" in text
    assert "says" in text
    assert "+33639980001" not in text
    assert "affaire" not in text


async def test_errors_hide_the_events_values_too(hosts: HostWorld) -> None:
    """An exception that quotes the sender is shown without it, unless all is shown."""
    hidden = await attempt(hosts.open({AGENT: "shapes:fail_with_data"}), AGENT)
    assert "ValueError: cannot call" in (hidden.error or "")
    assert "+33639980001" not in (hidden.error or "")
    shown = await attempt(hosts.open({AGENT: "shapes:fail_with_data"}, masked=lambda: False), AGENT)
    assert "+33639980001" in (shown.error or "")


@pytest.mark.parametrize("target", [None, "log:"])
async def test_a_target_may_go_while_an_attempt_waits_for_its_host(
    hosts: HostWorld, target: str | None
) -> None:
    """The attempt says what happened, in words of the settings."""
    agents = hosts.open({AGENT: "friendly:handle"})
    lines = f'agents.{AGENT}.target = "{target}"' if target else ""
    agents.reconfigure(hosts.settings({}, lines))
    outcome = await attempt(agents, AGENT)
    assert outcome.kind is OutcomeKind.UNREACHABLE
    assert ("no Python agent any more" if target else "it has no target") in str(outcome.error)


async def test_no_room_for_attachments_is_a_failure_of_the_machine(
    hosts: HostWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs the entry nothing of its schedule, whatever the disk says, and leaves nothing."""
    attachment = Attachment(file_name="a", content_type="a/b", size_bytes=9, sha256="0" * 64)

    async def fetch(_: EventId) -> list[bytes]:
        return [b"some room"]

    agents = hosts.open({AGENT: "shapes:read_attachments"}, attachments=fetch)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = left_in(tmp_path)
    with full_disk(), capture_logs():
        full = await attempt(agents, AGENT, channel="email", attachments=(attachment,))
    assert left_in(tmp_path) == before
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    gone = await attempt(agents, AGENT, channel="email", attachments=(attachment,))
    for outcome in (full, gone):
        assert (outcome.kind, outcome.uses_schedule) == (OutcomeKind.UNREACHABLE, False)
        assert str(tmp_path) in (outcome.error or "")


async def test_a_path_that_is_denied_is_said_in_one_line(hosts: HostWorld, tmp_path: Path) -> None:
    """With the place in the agent's code; the hint names the path, and the unit's drop-in."""
    path = "/root/berinia/infra-ia/logs/agent.log"
    (tmp_path / "denied.py").write_text(
        f"def write():\n    raise PermissionError(13, 'Permission denied', {path!r})\nwrite()\n"
    )
    agents = hosts.open({AGENT: "denied:handle"}, f'agents.path = "{tmp_path}"')
    with pytest.raises(AgentUnavailable) as raised:
        await agents.load(AGENT)
    where = f"({tmp_path}/denied.py:2)"
    assert str(raised.value) == f"PermissionError: {path}: Permission denied {where}"
    assert path in str(raised.value.hint)
    assert "contrib/systemd/agents-in-root.conf" in str(raised.value.hint)
