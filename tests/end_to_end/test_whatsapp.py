"""The way of a WhatsApp message: routed by its group, answered in the request, or posted later."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from ..ports import refusing_port
from .bot import Bot
from .daemon import PATIENCE_SECONDS, Answer, Daemon
from .providers import ALL_CHANNELS, WHATSAPP_PATH, posted_whatsapp, sample_whatsapp
from .test_sms import wait_until_seen

# Says back what it was told; some words mean more, and a file named `hold` keeps it busy.
TALKER = """
import json, pathlib, time

HERE = pathlib.Path(__file__).parent


class Recorder:
    def run(self, input_data):
        with (HERE / "seen.jsonl").open("a") as seen:
            seen.write(json.dumps(input_data) + "\\n")
        while (HERE / "hold").exists():
            time.sleep(0.01)
        match input_data["content"]:
            case "silence":
                return None
            case "refuse":
                return {"status": "error", "message": "Je ne peux pas."}
            case "not yet" if input_data["attempt"] == 1:
                return {"status": "retry"}
            case text:
                return {"status": "success", "response": f"re: {text}"}
"""
ADMIN, META = "AdminInterpreterAgent", "MetaAgent"
GROUP = "🤖 Support IA / Chatbot"
LONG = "channels.whatsapp.reply_wait_seconds = 300"
SHORT = "channels.whatsapp.reply_wait_seconds = 0.2"
Start = Callable[..., Daemon]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a daemon with a talking agent and these settings."""
    with ExitStack() as stack:

        def begin(settings: str = LONG, *, pauses: str = "[0.05, 0.05]") -> Daemon:
            schedule = f"channels.whatsapp.retry_schedule_seconds = {pauses}"
            daemon = Daemon(tmp_path, f"{ALL_CHANNELS}\n{schedule}\n{settings}", agent=TALKER)
            stack.callback(daemon.close)
            return daemon.start()

        yield begin


@pytest.fixture
def bot() -> Iterator[Bot]:
    """A bot that takes everything."""
    bot = Bot()
    yield bot
    bot.close()


def late(bot: Bot) -> str:
    return f'{SHORT}\nchannels.whatsapp.late_reply_url = "{bot.url}"'


def send(daemon: Daemon, document: Mapping[str, object] | None = None, **changes: object) -> Answer:
    body, headers = posted_whatsapp(document or sample_whatsapp(**changes))
    return daemon.request("POST", WHATSAPP_PATH, body, headers)


def show(daemon: Daemon, answer: Answer) -> Any:
    event_id = answer.json()["event_id"]
    return json.loads(daemon.run("events", "show", event_id, "--json").stdout)


def test_the_agents_reply_is_the_answer(start: Start) -> None:
    """The bot waits for the agent, and writes `response` into the chat."""
    daemon = start()
    document = sample_whatsapp(content="Combien de leads ?", profile_name="Camille")
    answer = send(daemon, document)
    event_id = daemon.wait_for("attempt.succeeded")["event_id"]
    assert (answer.status, answer.json()) == (
        200,
        {
            "status": "ok",
            "event_id": event_id,
            "agent": ADMIN,
            "response": "re: Combien de leads ?",
        },
    )
    (payload,) = daemon.seen()
    assert payload == {
        "message": "Combien de leads ?",
        "content": "Combien de leads ?",
        "sender": document["author"],
        "recipient": "BerinIA",
        "profile_name": "Camille",
        "message_type": "whatsapp",
        "source": "whatsapp",
        "group": GROUP,
        "author": document["author"],
        "opt_out": None,
        "consent": None,
        "auto_submitted": None,
        "event_id": event_id,
        "attempt": 1,
    }


@pytest.mark.parametrize("changes", [{"content": ""}, {"from": "status@broadcast"}])
def test_pictures_and_stories_are_answered_with_nothing(
    start: Start, changes: dict[str, object]
) -> None:
    """At once, and without a `response` for the chat."""
    daemon = start()
    answer = send(daemon, sample_whatsapp(**changes))
    event_id = daemon.wait_for("event.skipped")["event_id"]
    assert (answer.status, answer.json()) == (200, {"status": "ok", "event_id": event_id})
    assert send(daemon, sample_whatsapp(content="and now?")).json()["response"] == "re: and now?"


@pytest.mark.parametrize(
    ("changes", "agent", "group"),
    [
        pytest.param({}, ADMIN, GROUP, id="as the bot names it"),
        pytest.param({"group": "  support ia / CHATBOT 🚀"}, ADMIN, "  support ia / CHATBOT 🚀"),
        pytest.param({"group": "Discussion libre"}, ADMIN, "Discussion libre"),
        pytest.param({"group": "Les leads"}, META, "Les leads", id="another group"),
        pytest.param({"type": "direct", "group": None}, META, "Direct Message", id="direct"),
        pytest.param({"type": "direct", "group": "Direct Message"}, META, "Direct Message"),
    ],
)
def test_the_group_decides_which_agent_answers(
    start: Start, changes: dict[str, object], agent: str, group: str
) -> None:
    """Emoji, letter case and blanks around a name do not matter; the agent sees it untouched."""
    daemon = start()
    assert send(daemon, sample_whatsapp(**changes)).json()["agent"] == agent
    assert daemon.seen()[0]["group"] == group


def test_the_older_form_is_understood(start: Start) -> None:
    """`sender`, `profile_name` and `message.text`, as the bot's first version sent it."""
    daemon = start()
    document = {
        "sender": "33639980001@c.us",
        "profile_name": "Camille",
        "message": {"text": "Bonjour"},
    }
    answer = send(daemon, document)
    assert (answer.status, answer.json()["response"]) == (200, "re: Bonjour")
    payload = daemon.seen()[0]
    assert payload["author"] == document["sender"]
    assert payload["profile_name"] == "Camille"
    assert payload["group"] == "Direct Message"


def test_an_error_with_a_text_is_the_answer(start: Start) -> None:
    """The bot gets the text; the outcome is recorded, and nobody tries again."""
    daemon = start()
    answer = send(daemon, content="refuse")
    assert (answer.status, answer.json()["response"]) == (200, "Je ne peux pas.")
    daemon.wait_for("attempt.failed")
    shown = show(daemon, answer)
    assert [attempt["outcome"] for attempt in shown["attempts"]] == ["error"]
    assert len(daemon.seen()) == 1


def test_an_agent_with_nothing_to_say_ends_the_waiting(start: Start) -> None:
    """202 as soon as it is clear that no reply will come."""
    answer = send(start(), content="silence")
    assert (answer.status, answer.json()["status"]) == (202, "accepted")
    assert "response" not in answer.json()


def test_a_retry_in_time_still_answers(start: Start) -> None:
    """The request outlives an attempt whose agent wants another."""
    daemon = start()
    answer = send(daemon, content="not yet")
    assert (answer.status, answer.json()["response"]) == (200, "re: not yet")
    assert [payload["attempt"] for payload in daemon.seen()] == [1, 2]


def test_nobody_waits_for_an_agent_that_is_not_loaded(tmp_path: Path, bot: Bot) -> None:
    """202 at once, although the caller would wait for minutes; the answer comes late, once the
    agent is mended.
    """
    late = f'channels.whatsapp.late_reply_url = "{bot.url}"'
    agent = "def unfinished(:\n"
    with closing(Daemon(tmp_path, f"{ALL_CHANNELS}\n{LONG}\n{late}", agent=agent)) as daemon:
        daemon.start()
        daemon.wait_for("agent.unavailable", agent=ADMIN)
        assert send(daemon, group=GROUP).status == 202
        (daemon.agents / "recorder.py").write_text(TALKER)
        daemon.reload()
        assert bot.wait_for(1)


def test_a_late_reply_is_posted_into_the_group(start: Start, bot: Bot) -> None:
    """202 when the time is over; later the text goes to the bot, the group exactly as received."""
    daemon = start(late(bot))
    (daemon.agents / "hold").touch()
    group = "  🤖 Les   leads "
    answer = send(daemon, group=group, content="Bonjour 🙂")
    assert (answer.status, set(answer.json())) == (202, {"status", "event_id"})
    assert bot.posted == []
    (daemon.agents / "hold").unlink()
    assert bot.wait_for(1) == [{"group": group, "message": "re: Bonjour 🙂"}]
    daemon.wait_for("attempt.succeeded", kind="reply", event_id=answer.json()["event_id"])
    shown = show(daemon, answer)
    assert shown["state"] == "done"
    assert shown["late_reply"]["state"] == "done"
    assert shown["reply"]["text"] == "re: Bonjour 🙂"


def test_a_late_reply_is_never_posted_for_a_direct_message(start: Start, bot: Bot) -> None:
    """Nobody could tell the right chat: it is said in the log and kept in the event."""
    daemon = start(late(bot))
    (daemon.agents / "hold").touch()
    answer = send(daemon, type="direct", group=None)
    assert answer.status == 202
    (daemon.agents / "hold").unlink()
    said = daemon.wait_for("reply.undeliverable", event_id=answer.json()["event_id"])
    assert "it is a direct message" in said["reason"]
    shown = show(daemon, answer)
    assert (shown["state"], shown["late_reply"]) == ("done", None)
    assert shown["reply"]["text"] == "re: Bonjour"
    (daemon.agents / "hold").touch()
    send(daemon, group=GROUP, content="after it")
    (daemon.agents / "hold").unlink()
    assert [message["message"] for message in bot.wait_for(1)] == ["re: after it"]


def test_without_a_url_a_late_reply_is_kept(start: Start) -> None:
    """Undeliverable, and visible."""
    daemon = start(SHORT)
    (daemon.agents / "hold").touch()
    answer = send(daemon)
    (daemon.agents / "hold").unlink()
    daemon.wait_for("reply.undeliverable", event_id=answer.json()["event_id"])
    assert show(daemon, answer)["reply"]["text"] == "re: Bonjour"


def post_late(daemon: Daemon) -> Answer:
    """Have a reply that comes too late for its caller."""
    (daemon.agents / "hold").touch()
    answer = send(daemon)
    assert answer.status == 202
    (daemon.agents / "hold").unlink()
    return answer


@pytest.mark.parametrize(
    ("statuses", "outcomes"),
    [
        pytest.param([503, 503], ["unreachable", "unreachable", "success"], id="busy"),
        pytest.param([500], ["error"], id="broken: it may have been sent"),
        pytest.param([404], ["error"], id="an unknown group"),
        pytest.param([302], ["error"], id="a redirect"),
    ],
)
def test_a_late_reply_is_repeated_only_where_it_was_not_sent(
    start: Start, statuses: list[int], outcomes: list[str]
) -> None:
    """The bot's `/send` is not idempotent, and nobody wants an answer twice."""
    bot = Bot(statuses)
    try:
        daemon = start(late(bot))
        answer = post_late(daemon)
        if outcomes[-1] == "success":
            daemon.wait_for("attempt.succeeded", kind="reply")
        else:
            daemon.wait_for("reply.undeliverable", event_id=answer.json()["event_id"])
        shown = show(daemon, answer)["late_reply"]
        assert [attempt["outcome"] for attempt in shown["attempts"]] == outcomes
        assert len(bot.posted) == len(outcomes)
    finally:
        bot.close()


def test_a_bot_that_is_away_is_tried_again_and_given_up(start: Start) -> None:
    """Nothing was sent, so the schedule is followed to its end; the text stays in the event."""
    with refusing_port() as port:
        url = f"http://127.0.0.1:{port}/send"
        daemon = start(f'{SHORT}\nchannels.whatsapp.late_reply_url = "{url}"')
        answer = post_late(daemon)
        daemon.wait_for("reply.undeliverable", event_id=answer.json()["event_id"])
    shown = show(daemon, answer)
    outcomes = [attempt["outcome"] for attempt in shown["late_reply"]["attempts"]]
    assert outcomes == ["unreachable"] * 3
    assert shown["reply"]["text"] == "re: Bonjour"


def test_a_late_reply_past_its_age_is_dropped(start: Start) -> None:
    """What would come an hour after the question is not posted at all."""
    bot = Bot([503])
    try:
        age = "channels.whatsapp.late_reply_max_age_seconds = 8"
        daemon = start(f"{late(bot)}\n{age}", pauses="[12]")  # less a fifth at most
        answer = post_late(daemon)
        daemon.wait_for("reply.undeliverable", event_id=answer.json()["event_id"])
        attempts = show(daemon, answer)["late_reply"]["attempts"]
        assert "late_reply_max_age_seconds" in attempts[-1]["error"]
        assert len(bot.posted) == 1
    finally:
        bot.close()


def test_a_caller_that_hangs_up_gets_its_reply_late(start: Start, bot: Bot) -> None:
    """Nobody reads the answer any more, so the chat gets it."""
    daemon = start(f'{LONG}\nchannels.whatsapp.late_reply_url = "{bot.url}"')
    (daemon.agents / "hold").touch()
    body, headers = posted_whatsapp()
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {WHATSAPP_PATH} HTTP/1.1\r\nHost: localhost\r\n{lines}"
    with socket.create_connection(("127.0.0.1", daemon.port)) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until_seen(daemon.agents / "seen.jsonl", 1)
    daemon.wait_for("request.finished", path=WHATSAPP_PATH, status=499)
    (daemon.agents / "hold").unlink()
    assert bot.wait_for(1) == [{"group": GROUP, "message": "re: Bonjour"}]


def test_a_repeated_message_gets_the_stored_reply(start: Start) -> None:
    """Once to the agent, the same answer every time, over a restart too."""
    daemon = start()
    document = sample_whatsapp()
    first = send(daemon, document)
    assert first.json()["response"] == "re: Bonjour"
    assert send(daemon, document).json() == first.json()
    assert send(daemon, {**document, "content": "changed in transit"}).json() == first.json()
    daemon.stop()
    daemon.start()
    assert send(daemon, document).json() == first.json()
    assert len(daemon.seen()) == 1
    other = send(daemon, {**document, "author": "33639980002@c.us"})
    assert other.json()["event_id"] != first.json()["event_id"]


def test_a_repeated_message_waits_with_the_first(start: Start) -> None:
    """All who ask while the agent thinks get the one reply."""
    daemon = start()
    (daemon.agents / "hold").touch()
    document = sample_whatsapp()
    with ThreadPoolExecutor(4) as pool:
        asked: list[Future[Answer]] = [pool.submit(send, daemon, document) for _ in range(4)]
        daemon.wait_for("event.accepted")
        daemon.wait_for("event.duplicate", count=3)
        (daemon.agents / "hold").unlink()
        answers = [future.result() for future in asked]
    assert [answer.status for answer in answers] == [200] * 4
    assert len({answer.body for answer in answers}) == 1
    assert len(daemon.seen()) == 1


def test_stopping_lets_waiting_requests_go(start: Start) -> None:
    """202 rather than a broken connection; the attempt ends within the grace."""
    daemon = start()
    (daemon.agents / "hold").touch()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(send, daemon)
        wait_until_seen(daemon.agents / "seen.jsonl", 1)
        assert daemon.process is not None
        daemon.process.terminate()
        assert asked.result().status == 202
        (daemon.agents / "hold").unlink()
    daemon.wait_for("attempt.succeeded")
    assert daemon.process.wait(PATIENCE_SECONDS) == 0


def test_a_secret_is_required_where_one_is_set(start: Start) -> None:
    """The address alone is not enough then."""
    daemon = start(f'{LONG}\nchannels.whatsapp.secret = "a long secret"')
    body, headers = posted_whatsapp()
    for given in (None, "", "Bearer", "Bearer wrong", "Basic a long secret"):
        sent = headers if given is None else {**headers, "Authorization": given}
        assert daemon.request("POST", WHATSAPP_PATH, body, sent).status == 403, given
    right = {**headers, "Authorization": "Bearer a long secret"}
    assert daemon.request("POST", WHATSAPP_PATH, body, right).status == 200
    assert len(daemon.seen()) == 1


FORWARDED: tuple[Mapping[str, str], ...] = (
    {"X-Forwarded-For": "203.0.113.9"},
    {"X-Forwarded-For": "127.0.0.1"},
    {"X-Forwarded-For": ""},
    {"X-Forwarded-Host": "localhost"},
    {"X-Real-IP": "127.0.0.1"},
    {"Forwarded": "for=127.0.0.1"},
    {"Via": "1.1 nginx"},
    {"Host": "app.example.com"},
    {"Host": "127.0.0.1.example.com"},
    {"Host": "localhost@app.example.com"},
)


def test_nobody_passes_for_the_bot(start: Start) -> None:
    """Whatever came through a proxy, or under another name, is not this machine's own."""
    daemon = start()
    body, headers = posted_whatsapp()
    for more in FORWARDED:
        answer = daemon.request("POST", WHATSAPP_PATH, body, {**headers, **more})
        assert answer.status == 403, more
    daemon.wait_for("address.refused", count=len(FORWARDED))
    assert daemon.seen() == []


def test_other_addresses_can_be_listed(start: Start) -> None:
    """As a proxy names them, and no longer this machine."""
    daemon = start(f'{LONG}\nchannels.whatsapp.allowed_ips = ["198.51.100.0/24"]')
    body, headers = posted_whatsapp()
    listed = {**headers, "X-Forwarded-For": "10.0.0.1, 198.51.100.7", "Host": "app.example.com"}
    assert daemon.request("POST", WHATSAPP_PATH, body, listed).status == 200
    assert daemon.request("POST", WHATSAPP_PATH, body, headers).status == 403


@pytest.mark.parametrize(
    ("changes", "missing", "invalid"),
    [
        ({"author": None, "messageId": None}, {"author", "messageId"}, set()),
        ({"content": 7, "timestamp": True}, set(), {"content", "timestamp"}),
        ({"author": " "}, set(), {"author"}),
    ],
)
def test_incomplete_messages_name_what_is_wrong(
    start: Start, changes: dict[str, object], missing: set[str], invalid: set[str]
) -> None:
    """400 with the fields' names."""
    answer = send(start(), sample_whatsapp(**changes))
    assert answer.status == 400
    assert (set(answer.json()["missing"]), set(answer.json()["invalid"])) == (missing, invalid)
