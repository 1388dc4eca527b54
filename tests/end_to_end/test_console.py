"""The console of a real daemon: its link, what it shows of a message, and what a click does."""

from __future__ import annotations

import http.client
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest

from berinia_webhookd.console_process import CannotBeTold, pickled

from .daemon import Daemon
from .list_api import EXAMPLE, post
from .test_first_five_minutes import PATIENCE_SECONDS, paste, printed
from .test_reload import rewrite

__all__ = ["printed"]

ADDRESS = ".".join(map(str, (127, *secrets.token_bytes(2), 2)))  # of this test run alone
FORM = "application/x-www-form-urlencoded"


class Person:
    """Somebody with a browser on this machine."""

    def __init__(self, url: str, address: str = "127.0.0.1") -> None:
        self.host = urlsplit(url).netloc
        self.address = address
        self.cookie = ""

    def ask(self, method: str, path: str, **form: str) -> tuple[int, str, str]:
        connection = http.client.HTTPConnection(self.address, int(self.host.rpartition(":")[2]))
        headers = {"Host": self.host, "Cookie": self.cookie}
        body = None
        if method == "POST":
            headers |= {"Origin": f"http://{self.host}", "Content-Type": FORM}
            body = urlencode(form)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        self.cookie = (answer.getheader("Set-Cookie") or self.cookie).partition(";")[0]
        text = answer.read().decode()
        connection.close()
        return answer.status, answer.getheader("Location") or "", text

    def sees(self, path: str, text: str) -> str:
        """Look at a page until it shows a text; the page."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while text not in (page := self.ask("GET", path)[2]):
            assert time.monotonic() < deadline, page
        return page

    def log_in(self, link: str) -> None:
        status, _, _ = self.ask("POST", "/login", link=link.partition("link=")[2])
        assert status == 303


def test_a_message_is_seen_and_replayed(printed: list[str], tmp_path: Path) -> None:
    """By the link that `serve --dev` prints, and by one of `console login`."""
    sms, *_, link = printed
    paste(sms, tmp_path)
    person = Person(link)
    person.log_in(link)
    _, _, messages = person.ask("GET", "/messages")
    found = re.search(r'class="id" href="(/messages/[0-9a-f-]+)"', messages)
    assert found is not None
    assert "Bonjour, rappelez-moi" in messages
    message = person.sees(found[1], f'action="{found[1]}/replay"')
    token = re.search(r'name="form_token" value="(\w+)"', message)
    assert token is not None
    assert "ResponseListenerAgent" in message
    assert person.ask("POST", f"{found[1]}/replay", form_token=token[1])[:2] == (303, found[1])
    status, _, now = person.ask("GET", "/")
    assert (status, "sms" in now) == (200, True)
    done = subprocess.run(
        [sys.executable, "-m", "berinia_webhookd", "console", "login", "--viewer"],
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    viewer = Person(done.stdout.strip())
    viewer.log_in(done.stdout.strip())
    assert "Bonjour, rappelez-moi" not in viewer.ask("GET", "/messages")[2]


@pytest.fixture
def daemon(tmp_path: Path, journal: str) -> Iterator[Daemon]:
    """A daemon whose console is on."""
    settings = f'console.enabled = true\nconsole.listen = "{ADDRESS}:8002"\n{journal}'
    one = Daemon(tmp_path, settings)
    try:
        yield one.start()
    finally:
        one.close()


def logged_in(daemon: Daemon) -> Person:
    link = daemon.run("console", "login").stdout.strip()
    person = Person(link, ADDRESS)
    person.log_in(link)
    return person


def process_of_console(daemon: Daemon) -> int:
    """The process that answers."""
    assert daemon.process is not None
    (found,) = [
        int(child)
        for file in Path(f"/proc/{daemon.process.pid}/task").glob("*/children")
        for child in file.read_text().split()
        if b"serve_console" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    return found


def test_it_is_a_process_of_its_own(daemon: Daemon) -> None:
    """Behind all others in the queue for the processor; killed, it comes back, and who was logged
    in still is. Providers are answered meanwhile.
    """
    person = logged_in(daemon)
    console = process_of_console(daemon)
    assert daemon.process is not None
    ours = os.getpriority(os.PRIO_PROCESS, daemon.process.pid)
    assert os.getpriority(os.PRIO_PROCESS, console) == min(19, ours + 10)
    os.kill(console, signal.SIGKILL)
    assert daemon.sms().status == 200
    ended = daemon.wait_for("console.ended")
    assert ended["exit_code"] == -signal.SIGKILL
    assert ended["reason"] == "killed by signal 9 (SIGKILL); started again in 2 s"
    assert person.ask("GET", "/messages")[0] == 200
    assert process_of_console(daemon) != console


def test_it_knows_what_the_daemon_knows(daemon: Daemon) -> None:
    """The shape of an agent that was loaded, and the settings as they hold after a reload."""
    person = logged_in(daemon)
    assert daemon.sms().status == 200
    daemon.wait_for("attempt.succeeded")
    found = re.search(
        r'class="id" href="(/messages/[0-9a-f-]+)"', person.ask("GET", "/messages")[2]
    )
    assert found is not None
    person.sees(found[1], "(as run)")
    rewrite(daemon, "", 'agents.Another.target = "log:"\nchannels.sms.agent = "Another"')
    daemon.reload()
    person.sees("/messages", "<option>Another</option>")


def test_it_is_told_a_declared_channel(daemon: Daemon) -> None:
    """One that comes with a reload; once the daemon has used it, to a console that starts again."""
    person = logged_in(daemon)
    rewrite(daemon, "", EXAMPLE)
    daemon.reload()
    message = {"id": "m1", "direction": "inbound", "from": "+33639980001", "to": "+33639980002"}
    message |= {"text": "Bonjour", "received_at": datetime.now(UTC).isoformat()}
    assert post(daemon, message).status == 200
    person.sees("/messages", "Bonjour")
    os.kill(process_of_console(daemon), signal.SIGKILL)
    daemon.wait_for("console.ended")
    person.sees("/messages", "Bonjour")
    assert daemon.stop() == 0


def test_settings_that_no_other_process_can_be_told_end_no_daemon() -> None:
    """Of a channel of whatever kind; it is said without them."""
    with pytest.raises(CannotBeTold) as raised:
        pickled(lambda: "geheim")
    assert "geheim" not in str(raised.value)


def test_it_ends_with_the_daemon(daemon: Daemon) -> None:
    """However that ends: stopped or killed."""
    logged_in(daemon)
    console = process_of_console(daemon)
    assert daemon.stop() == 0
    assert not Path(f"/proc/{console}").exists()
    daemon.start()
    logged_in(daemon)
    console = process_of_console(daemon)
    daemon.kill()  # its last output comes when nobody holds its stderr any more
    assert not Path(f"/proc/{console}/fd/2").exists()
