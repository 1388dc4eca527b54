"""`reconcile` of a declared channel, by the example of docs/declaring-a-channel.md: beside a real
daemon, and a server that answers as its provider's API would.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from berinia_webhookd.channels.declared.channel import DeclaredChannel
from berinia_webhookd.channels.declared.settings import DeclaredSettings
from berinia_webhookd.errors import CannotStartNow
from berinia_webhookd.http_client import HttpClient
from berinia_webhookd.tools.reconcile import declared
from berinia_webhookd.tools.reconcile.comparing import Tally
from berinia_webhookd.tools.reconcile.declared import ProviderList

from .daemon import PATIENCE_SECONDS, Daemon
from .list_api import EXAMPLES, GATEWAY, KEY, SECRET, WAYS, ListApi, post, settings
from .provider_api import answers, fine, served
from .reconciling import ago, counts_of

LINE = ("reconcile", "gateway", "--since", "20h")


@pytest.fixture
def api() -> Iterator[ListApi]:
    with served(ListApi(KEY, page=20)) as api:
        yield api


@pytest.fixture
def daemon(tmp_path: Path, api: ListApi) -> Iterator[Daemon]:
    with closing(Daemon(tmp_path, settings(api))) as daemon:
        yield daemon.start()


@pytest.fixture
def on_either(tmp_path: Path, api: ListApi, journal: str) -> Iterator[Daemon]:
    with closing(Daemon(tmp_path, settings(api, journal))) as daemon:
        yield daemon.start()


def test_the_example_is_the_same_in_both_languages() -> None:
    assert EXAMPLES[0] == EXAMPLES[1]


def test_what_never_arrived_is_taken_in_in_its_order(on_either: Daemon, api: ListApi) -> None:
    """The dry run counts it and changes nothing; the run hands it over, oldest first, as what it
    is; a callback after it is a repetition, and a second run finds everything.
    """
    daemon = on_either
    arrived = api.holds("m-arrived", ago(hours=2), "here")
    assert post(daemon, arrived).status == 200
    missing = [
        api.holds(f"m{number}", ago(minutes=1100 - number * 20), f"{number}")
        for number in range(50)
    ]
    api.holds("out", ago(hours=1), "ours", direction="outbound")
    api.holds("young", ago(minutes=2), "young")
    api.holds("old", ago(hours=30), "of another time")

    dry = daemon.run(*LINE, "--dry-run", check=False)
    assert dry.returncode == 1
    expected = {"listed": 52, "here": 1, "pending": 1, "missing": 50, "too old": 0}
    assert counts_of(dry.stdout) == expected
    assert "missing: m" in dry.stderr
    assert len(daemon.wait_until_seen(1)) == 1

    done = daemon.run(*LINE)
    assert counts_of(done.stdout)["taken in"] == 51
    seen = [one["data"] for one in daemon.wait_until_seen(52)]
    assert [one["body"] for one in seen] == ["here", *(str(n) for n in range(50)), "young"]
    assert all(one["reconciled"] is True for one in seen[1:])
    assert "reconciled" not in seen[0]
    assert datetime.fromisoformat(seen[1]["received_at"]) == datetime.fromisoformat(
        missing[0]["received_at"]
    )
    assert post(daemon, missing[7]).status == 200
    daemon.wait_for("event.duplicate")
    again = counts_of(daemon.run(*LINE).stdout)
    assert (again["listed"], again["here"], again["taken in"]) == (52, 52, 0)


def test_what_is_old_needs_a_word(daemon: Daemon, api: ListApi) -> None:
    """Older than 24 hours: counted, and taken in with `--late-ok` alone."""
    api.holds("old", ago(hours=30), "late")
    line = ("reconcile", "gateway", "--since", "2d")
    old = daemon.run(*line, check=False)
    assert old.returncode == 1
    assert counts_of(old.stdout)["too old"] == 1
    assert counts_of(daemon.run(*line, "--late-ok").stdout)["taken in"] == 1


def test_opt_outs_take_effect(tmp_path: Path, api: ListApi) -> None:
    words = 'opt_out_words = { stop = ["stop"] }\nverify ='
    with closing(Daemon(tmp_path, settings(api).replace("verify =", words))) as daemon:
        daemon.start()
        api.holds("stop", ago(hours=1), "STOP")
        daemon.run(*LINE)
        assert daemon.run("consents", "check", "+33639980001", check=False).returncode == 1


def test_without_a_name_it_is_asked_with_the_others(daemon: Daemon, api: ListApi) -> None:
    """While the daemon is stopped."""
    daemon.stop()
    api.holds("m1", ago(hours=1), "Oui")
    done = daemon.run("reconcile", "--since", "20h")
    assert done.stdout.startswith("gateway: listed 1, here 0")


def test_garbage_keeps_no_other_back(daemon: Daemon, api: ListApi) -> None:
    """Named, counted and left out; the exit code says so."""
    api.messages += [7, None, ["a"], {"id": "x", "direction": "inbound"}]
    api.holds("a", ago(hours=1), "no sender", **{"from": {"number": "+33639980001"}})
    api.messages.append({**api.messages[-1], "id": None, "from": "+33639980001"})
    deep: Any = "half a character \ud83d"
    for _ in range(100):
        deep = [deep]
    api.holds("deep", ago(hours=1), "deep", more=deep)
    api.holds("kept", ago(hours=1), "kept \ud83d")
    done = daemon.run("reconcile", "gateway", "--since", "70m", check=False)
    assert done.returncode == 1
    assert "missing 1, too old 0; taken in 1, not taken in" in done.stdout
    for why in ("It is no object", "It says no time", "from is an object", "all fields of id"):
        assert why in done.stderr
    (seen,) = daemon.wait_until_seen(1)
    assert seen["data"]["body"] == "kept ?"


def test_faults_that_pass_are_waited_for(daemon: Daemon, api: ListApi) -> None:
    """Too many requests, its own trouble, an answer cut off: asked again, and nothing is lost."""
    for number in range(60):
        api.holds(f"m{number}", ago(hours=1), f"{number}")
    api.faults = [
        *(answers(429, Retry_After="0"), answers(503, Retry_After="0")),
        *(fine, answers(200, b'{"messages": [{"id"'), answers(502, Retry_After="0")),
    ]
    assert counts_of(daemon.run(*LINE).stdout)["taken in"] == 60
    assert not api.faults


@pytest.mark.parametrize(
    ("fault", "code", "says"),
    [
        (answers(401), 3, "set channels.gateway.reconcile_secret"),
        (answers(403), 3, "set channels.gateway.reconcile_secret"),
        (answers(404), 4, "answers 404"),
        (answers(302, Location="http://127.0.0.1:1/"), 4, "answers 302"),
        (answers(200, b'{"items": []}'), 4, "no list at items = 'messages'"),
        (answers(200, b"[]"), 4, "no list at items = 'messages'"),
        (answers(200, b'{"messages": [], "meta": {"next": ["a"]}}'), 4, "which page is next"),
    ],
)
def test_faults_that_stay_are_told(
    daemon: Daemon, api: ListApi, fault: Any, code: int, says: str
) -> None:
    """With the setting to look at; none says that nothing is missing, or shows the secret."""
    api.faults = [fault]
    done = daemon.run(*LINE, check=False)
    assert done.returncode == code
    assert says in done.stderr
    assert "channels.gateway.reconcile" in done.stderr
    assert not done.stdout
    assert KEY not in done.stderr
    assert all(KEY not in one for one in api.asked)


def test_without_a_secret_nobody_is_asked(tmp_path: Path, api: ListApi) -> None:
    """`check-config` warns, and the run says what to set."""
    without = settings(api).replace(f'reconcile_secret = "{KEY}"', "")
    with closing(Daemon(tmp_path, without)) as daemon:
        daemon.start()
        checked = daemon.run("check-config", check=False)
        assert "channels.gateway.reconcile_secret" in checked.stdout
        done = daemon.run(*LINE, check=False)
        assert done.returncode == 3
        assert "set channels.gateway.reconcile_secret" in done.stderr
        assert not api.asked


def test_one_that_is_killed_goes_on(on_either: Daemon, api: ListApi, tmp_path: Path) -> None:
    """`kill -9` of it while it asks for the last day: the same line takes in the rest."""
    daemon = on_either
    early, late = ago(hours=36), ago(hours=1)
    for number in range(60):
        api.holds(f"m{number}", (early, late)[number % 2], f"{number}")
    line = ("reconcile", "gateway", "--since", "40h", "--late-ok")

    def kill(_api: ListApi, target: str) -> None:
        if f"since={late:%Y-%m-%d}" in target:
            killed.kill()

    api.faults = [kill] * 200
    killed = subprocess.Popen(daemon.command(*line), env=daemon.environment, cwd=tmp_path)
    assert killed.wait(PATIENCE_SECONDS) == -signal.SIGKILL
    api.faults = []
    done = counts_of(daemon.run(*line).stdout)
    assert (done["here"], done["taken in"]) == (30, 30)
    assert len(daemon.wait_until_seen(60)) == 60


def test_what_is_shown_has_no_secret(daemon: Daemon) -> None:
    """`channels show` says how it is asked."""
    shown = daemon.run("channels", "show", "gateway").stdout
    assert "reconcile" in shown
    assert "/v1/messages" in shown
    assert KEY not in shown
    assert KEY not in daemon.run("channels", "show", "gateway", "--json").stdout


def test_an_answer_can_be_tried(daemon: Daemon, api: ListApi, tmp_path: Path) -> None:
    """What each item of a saved answer would be, and by what it and a callback are recognised."""
    message = api.holds("m1", ago(hours=1), "Oui")
    items = [message, {**message, "direction": "outbound"}, 7]
    saved = tmp_path / "answer.json"
    saved.write_text(json.dumps({"messages": items, "meta": {"next": "2"}}))
    line = ("channels", "test", "gateway", str(saved), "--listed")
    tried = daemon.run(*line, "--json", check=False)
    assert tried.returncode == 1
    found = json.loads(tried.stdout)
    (event,) = found["events"]
    assert (event["sender"], event["text"]) == ("+33639980001", "Oui")
    assert [one["path"] for one in found["rejected"]] == ["messages.2"]
    assert (found["ignored"], found["unmet"]) == (1, [])
    assert "not taken in: messages.2" in daemon.run(*line, check=False).stdout
    body = json.dumps({"event": "message.received", "data": message})
    signed = hmac.new(SECRET.encode(), body.encode(), hashlib.sha256).hexdigest()
    request = tmp_path / "request"
    request.write_text(
        f"POST /webhook/gateway HTTP/1.1\nContent-Type: application/json\nX-Signature: {signed}\n\n"
        f"{body}"
    )
    called = json.loads(daemon.run("channels", "test", "gateway", str(request), "--json").stdout)
    assert called["events"][0]["recognised_by"] == event["recognised_by"]
    saved.write_text(json.dumps({"messages": items[1:2], "meta": {"next": "2"}}))
    assert "never holds: there is outbound" in daemon.run(*line).stdout
    saved.write_text("{}")
    wrong = daemon.run(*line, check=False)
    assert wrong.returncode == 1
    assert "no list at items" in wrong.stdout


def asked(tmp_path: Path, api: ListApi, **span: float) -> list[Any]:
    """What is listed, in this process: without a daemon and its journal."""
    of_gateway = Daemon(tmp_path, settings(api)).settings.channels[GATEWAY]
    assert isinstance(of_gateway, DeclaredSettings)

    async def ask() -> list[Any]:
        async with HttpClient() as http:
            channel = DeclaredChannel(of_gateway)
            provider = ProviderList(channel, http=http, tally=Tally(), pauses=[])
            groups = provider.groups(ago(**span), ago(hours=0))
            return [one async for group in groups async for page in group for one in page]

    return asyncio.run(ask())


@pytest.mark.parametrize("way", WAYS)
def test_all_pages_are_read(tmp_path: Path, way: str) -> None:
    """In each way in which one leads to the next, of each day, each message once."""
    with served(ListApi(KEY, way=way, page=7)) as api:
        for number in range(30):
            api.holds(f"m{number}", ago(hours=1 + number), f"{number}")
        found = asked(tmp_path, api, hours=72)
        assert sorted(one.id for one in found) == sorted(f"m{number}" for number in range(30))


@pytest.mark.parametrize("way", WAYS)
def test_a_list_without_end_ends(tmp_path: Path, way: str) -> None:
    """Whether the next page is the same one, or another one with the same items."""
    with served(ListApi(KEY, way=way, page=7)) as api:
        api.repeats = True
        for number in range(30):
            api.holds(f"m{number}", ago(minutes=number), f"{number}")
        with pytest.raises(CannotStartNow, match="same page again"):
            asked(tmp_path, api, hours=1)


@pytest.mark.parametrize(
    "place",
    [
        "http://{host}/v1/messages",
        "//{host}/v1/messages",
        "https://{own}/v1/messages",
        "http://{own}@{host}/v1/messages",
        "http://{host}\\@{own}/",
        "http://[/v1",
        "file:///etc/passwd",
    ],
)
def test_no_other_host_sees_the_credentials(tmp_path: Path, place: str) -> None:
    """However the address of the next page is spelt."""
    with served(ListApi(KEY)) as other, served(ListApi(KEY, way="link", page=7)) as api:
        hosts = {"host": other.url, "own": api.url}
        named = {name: url.removeprefix("http://") for name, url in hosts.items()}
        api.elsewhere = place.format(**named)
        for number in range(30):
            api.holds(f"m{number}", ago(minutes=number), f"{number}")
        with pytest.raises(CannotStartNow, match=r"another host|which page is next"):
            asked(tmp_path, api, hours=1)
        assert not other.asked


@pytest.mark.parametrize("query", ["x" * 8192, "a b"])
def test_the_address_of_a_page_has_a_size_and_no_spaces(tmp_path: Path, query: str) -> None:
    with served(ListApi(KEY, way="link", page=7)) as api:
        api.elsewhere = f"{api.url}/v1/messages?{query}"
        for number in range(30):
            api.holds(f"m{number}", ago(minutes=number), f"{number}")
        with pytest.raises(CannotStartNow, match="too long, or has spaces"):
            asked(tmp_path, api, hours=1)


@pytest.mark.parametrize(
    ("bound", "value"), [("MOST_PAGES", 2), ("MOST_ITEMS", 20), ("MOST_BYTES", 3000)]
)
def test_a_list_has_a_size(
    tmp_path: Path, api: ListApi, monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    monkeypatch.setattr(declared, bound, value)
    for number in range(60):
        api.holds(f"m{number}", ago(minutes=1), f"{number}")
    with pytest.raises(CannotStartNow, match="lists too much"):
        asked(tmp_path, api, minutes=2)


def test_an_answer_has_a_size(
    tmp_path: Path, api: ListApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(declared, "LONGEST_BYTES", 1000)
    for number in range(60):
        api.holds(f"m{number}", ago(minutes=1), f"{number}")
    with pytest.raises(CannotStartNow, match="answers with more than"):
        asked(tmp_path, api, minutes=2)
