"""The console of a real daemon: its link, what it shows of a message, and what a click does."""

from __future__ import annotations

import http.client
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from .test_first_five_minutes import paste, printed

__all__ = ["printed"]

FORM = "application/x-www-form-urlencoded"


class Person:
    """Somebody with a browser on this machine."""

    def __init__(self, url: str) -> None:
        self.host = urlsplit(url).netloc
        self.cookie = ""

    def ask(self, method: str, path: str, **form: str) -> tuple[int, str, str]:
        connection = http.client.HTTPConnection("127.0.0.1", int(self.host.rpartition(":")[2]))
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
    _, _, message = person.ask("GET", found[1])
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
