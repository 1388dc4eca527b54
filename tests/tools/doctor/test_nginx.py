"""nginx set up wrongly in every way that loses callbacks, and the line that mends it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.end_to_end.daemon import Daemon
from tests.ports import refusing_port

from .conftest import make, set_public_url
from .proxy import Proxy, Setup
from .reading import doctor

Proxied = tuple[Daemon, Proxy]
Folders = pytest.TempPathFactory
NONE_GETS_IN = "no callback arrives from outside"
TWILIO_DOES_NOT = "Twilio does not send again, unless the URL in its console ends in #rc=5&rp=all"
LOOK_ONCE = "BERINIA_WEBHOOKD_SERVER__PUBLIC_URL"


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: Folders) -> Iterator[Daemon]:
    """A daemon that goes by what nginx says, since it has no public URL."""
    daemon = make(tmp_path_factory.mktemp("trusting")).start()
    yield daemon
    daemon.close()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: Folders) -> Iterator[Proxied]:
    """A daemon behind a proxy that is its public URL."""
    daemon = make(tmp_path_factory.mktemp("proxied"))
    with Proxy() as proxy:
        set_public_url(daemon, proxy.url)
        yield daemon.start(), proxy
        daemon.close()


@pytest.fixture
def proxied(pair: Proxied) -> Proxied:
    """The same, with the proxy set up rightly."""
    daemon, proxy = pair
    proxy.setup = Setup(daemon.port)
    return pair


def test_nginx_as_it_should_be(proxied: Proxied) -> None:
    """Nothing is wrong, both channels arrive untouched, and no probe is stored."""
    daemon, proxy = proxied
    report = doctor(daemon)
    assert report.wrong == set(), str(report)
    assert report.status == 0, report
    assert [finding["level"] for finding in report.of("nginx")] == ["ok", "ok"]
    assert {finding["level"] for finding in report.of("outside")} == {"ok"}
    assert {"/webhook/sms-response", "/webhook/email-response"} <= set(proxy.paths)
    assert daemon.run("events", "list", "--json").stdout.strip() == "[]"


def test_no_public_url(trusting: Daemon) -> None:
    """Without it nginx cannot be looked at: said, with the setting and a way to look once."""
    report = doctor(trusting)
    finding = report.one("nginx", "note", "server.public_url")
    assert any(LOOK_ONCE in step for step in finding["fix"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scheme": "https"}, ("X-Forwarded-Proto",)),
        ({"host": "127.0.0.1:8001"}, ("proxy_set_header Host $http_host;",)),
        ({"path": lambda path: path + "/"}, ("another path", "proxy_pass")),
        ({"path": lambda path: path.removeprefix("/webhook")}, ("another path", "proxy_pass")),
        ({"answer": (404, {})}, ("no location", "include")),
        ({"answer": (502, {})}, ("does not reach the daemon", "proxy_pass http://127.0.0.1:")),
        ({"answer": (413, {})}, ("too large for nginx", "client_max_body_size")),
        ({"answer": (403, {})}, ("before it reaches the daemon", "allow, deny")),
        ({"answer": (200, {})}, ("not by this daemon", "location =")),
        (
            {"answer": (301, {"Location": "https://www.example.com/"})},
            ("is redirected to https://www.example.com", "server.public_url"),
        ),
    ],
)
def test_nginx_is_wrong_and_signatures_depend_on_it(
    trusting: Daemon, change: dict[str, object], words: tuple[str, ...]
) -> None:
    """The daemon goes by what nginx says, and each mistake is named with the line to change."""
    with Proxy(replace(Setup(trusting.port), **change)) as proxy:  # type: ignore[arg-type]
        report = doctor(trusting, environment={LOOK_ONCE: proxy.url})
    assert report.status == 1
    assert "signatures" not in report.wrong  # straight to the daemon all is well
    report.one("nginx", "wrong", "sms-response", *words)


@pytest.mark.parametrize(
    ("change", "sms", "email"),
    [
        (
            {"answer": (502, {})},
            f"{NONE_GETS_IN}; {TWILIO_DOES_NOT}",
            f"{NONE_GETS_IN}; Mailgun tries again for eight hours, then drops the mail",
        ),
        (
            {"answer": (301, {"Location": "https://www.example.com/"})},
            "a redirected POST loses its body, or its signature is over another URL",
            "a redirected POST loses its body",
        ),
        (
            {"body": lambda body: body.replace(b"%C3%89", b"%C9")},
            "Twilio signs what it sent; messages with blanks or accents are refused",
            "Mailgun does not sign the text of an e-mail: damage goes unnoticed",
        ),
    ],
)
def test_why_it_matters_is_true_of_the_provider(
    proxied: Proxied, change: dict[str, object], sms: str, email: str
) -> None:
    """Mailgun signs neither URL nor text, and tries again; Twilio is the other way round."""
    daemon, proxy = proxied
    proxy.setup = replace(proxy.setup, **change)  # type: ignore[arg-type]
    report = doctor(daemon)
    assert report.one("nginx", "wrong", "sms-response")["why"] == sms
    assert report.one("nginx", "wrong", "email-response")["why"] == email


def test_one_location_for_all_is_one_mistake(proxied: Proxied) -> None:
    """Named once, with each path, and what each provider does about it."""
    daemon, proxy = proxied
    proxy.setup = replace(proxy.setup, path=lambda path: path + "/")
    (finding,) = doctor(daemon).of("nginx", "wrong")
    assert "/webhook/sms-response, /webhook/email-response: nginx passes on" in finding["what"]
    assert finding["why"] == (
        f"404 for Twilio and Mailgun; {TWILIO_DOES_NOT}; "
        "Mailgun tries again for eight hours, then drops the mail"
    )


def test_wrong_scheme_and_host_are_said_although_a_public_url_hides_them(proxied: Proxied) -> None:
    """With `server.public_url` signatures are verified all the same: a warning, with the line."""
    daemon, proxy = proxied
    proxy.setup = replace(proxy.setup, scheme="https", host="backend")
    report = doctor(daemon)
    report.one("nginx", "warning", "sms-response", "sees https instead of http")
    report.one("nginx", "warning", "sms-response", "'backend'", "Host $http_host")
    finding = report.one("nginx", "note", "email-response", "sees https instead of http")
    assert finding["why"] == "its messages are accepted all the same, because Mailgun signs no URL"
    assert "nginx" not in report.wrong


@pytest.mark.parametrize(
    ("forwarded_for", "words"),
    [("drop", "does not pass on the address"), ("pass", "caller's own X-Forwarded-For")],
)
def test_the_client_address_is_not_passed_on(
    proxied: Proxied, forwarded_for: str, words: str
) -> None:
    """No address, or one that the caller may choose: both break limits and lists."""
    daemon, proxy = proxied
    proxy.setup = replace(proxy.setup, forwarded_for=forwarded_for, scheme=None)
    report = doctor(daemon)
    report.one("nginx", "wrong", "sms-response", words, "$proxy_add_x_forwarded_for")


def test_a_proxy_that_is_not_trusted(stopped: Daemon) -> None:
    """A proxy elsewhere that nobody listed: its headers are ignored, and which to list is said."""
    config = stopped.config
    config.write_text(f'server.trusted_proxies = ["192.0.2.10"]\n{config.read_text()}')
    stopped.start()
    with Proxy(Setup(stopped.port)) as proxy:
        set_public_url(stopped, proxy.url)
        assert stopped.process is not None
        stopped.process.send_signal(1)
        stopped.wait_for("config.reloaded")
        report = doctor(stopped)
    report.one("nginx", "wrong", "sms-response", "is not in server.trusted_proxies")


@pytest.mark.parametrize(
    "alter",
    [
        lambda body: body.replace(b"++", b"+"),  # blanks squeezed
        lambda body: body.replace(b"%C3%89", b"%C9"),  # recoded to Latin-1
    ],
)
def test_the_body_is_altered_in_transit(proxied: Proxied, alter: object) -> None:
    """A plain message passes and one with blanks and accents does not: the body is changed."""
    daemon, proxy = proxied
    proxy.setup = replace(proxy.setup, body=alter)  # type: ignore[arg-type]
    report = doctor(daemon)
    report.one("nginx", "wrong", "sms-response", "the body is changed")
    report.one("nginx", "wrong", "email-response", "the body is changed")


def test_trimmed_blanks_are_explained(proxied: Proxied) -> None:
    """Where the daemon itself finds out what happened to the body, its words are shown."""
    daemon, proxy = proxied

    def trim(body: bytes) -> bytes:
        return body.replace(b"Body=+", b"Body=")

    proxy.setup = replace(proxy.setup, body=trim)
    finding = doctor(daemon).one("nginx", "wrong", "sms-response", "the body is changed")
    assert "white space of the message was trimmed" in finding["fix"][0]


def test_nginx_hands_to_another_daemon(proxied: Proxied, tmp_path_factory: Folders) -> None:
    """It knows no probe of ours, and our log knows nothing of that refusal."""
    daemon, proxy = proxied
    other = Daemon(tmp_path_factory.mktemp("other"), 'channels.email.signing_keys = ["x"]')
    set_public_url(other, proxy.url)
    try:
        other.start()
        proxy.setup = replace(proxy.setup, upstream=other.port)
        report = doctor(daemon)
    finally:
        other.close()
    for path in ("sms-response", "email-response"):
        finding = report.one("nginx", "wrong", path, "not this one")
        assert f"proxy_pass http://127.0.0.1:{daemon.port};" in finding["fix"][0]


def test_nobody_behind_nginx(proxied: Proxied) -> None:
    """A port where nobody listens is a 502."""
    daemon, proxy = proxied
    with refusing_port() as port:
        proxy.setup = replace(proxy.setup, upstream=port)
        doctor(daemon).one("nginx", "wrong", "sms-response", "(502)")


def test_nothing_listens_at_the_public_url(trusting: Daemon) -> None:
    """Nginx is down: said once, and not for each channel."""
    with refusing_port() as port:
        report = doctor(trusting, environment={LOOK_ONCE: f"http://127.0.0.1:{port}"})
    report.one("nginx", "wrong", "cannot be reached", "systemctl status nginx")
    assert len(report.of("nginx")) == 1


def test_a_public_name_that_does_not_exist(trusting: Daemon) -> None:
    """A slip in the name; `.invalid` resolves nowhere."""
    report = doctor(trusting, environment={LOOK_ONCE: "https://app.invalid"})
    report.one("nginx", "wrong", "cannot be resolved", "server.public_url")


def test_no_tls_at_an_https_url(proxied: Proxied) -> None:
    """What speaks no TLS is no https: the command that shows it is given."""
    daemon, proxy = proxied
    report = doctor(daemon, environment={LOOK_ONCE: proxy.url.replace("http:", "https:")})
    report.one("nginx", "wrong", "cannot be reached", "curl -v")


def test_the_bot_is_open_to_the_outside(proxied: Proxied) -> None:
    """A proxy that hides the caller and the name it used turns everybody into the bot."""
    daemon, proxy = proxied
    proxy.setup = replace(
        proxy.setup,
        closed=frozenset(),
        scheme=None,
        forwarded_for="drop",
        host=f"127.0.0.1:{daemon.port}",
    )
    report = doctor(daemon)
    report.one("outside", "wrong", "/webhook/whatsapp", "return 404")
    report.one("outside", "note", "/webhook/logs")


def test_an_open_bot_path_that_the_daemon_guards(proxied: Proxied) -> None:
    """Open by mistake, but with the caller's address: refused, and worth a note."""
    daemon, proxy = proxied
    proxy.setup = replace(proxy.setup, closed=frozenset())
    report = doctor(daemon)
    report.one("outside", "note", "/webhook/whatsapp", "return 404")
    assert report.status == 0, report
