"""Hosts and ports as they stand in URLs and headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berinia_webhookd.channels.signatures import is_plain, port_forms


@pytest.mark.parametrize(
    ("base_url", "forms"),
    [
        ("https://a.example.com", ("https://a.example.com", "https://a.example.com:443")),
        ("http://a.example.com", ("http://a.example.com", "http://a.example.com:80")),
        ("https://a.example.com:443", ("https://a.example.com:443", "https://a.example.com")),
        ("https://a.example.com:8443", ("https://a.example.com:8443", "https://a.example.com")),
        ("HTTPS://A.Example.com/", ("HTTPS://A.Example.com", "HTTPS://A.Example.com:443")),
        ("https://u:p@a.example.com:1", ("https://a.example.com:1", "https://a.example.com")),
        ("https://u@x@a.example.com", ("https://a.example.com", "https://a.example.com:443")),
        ("http://[2001:db8::1]", ("http://[2001:db8::1]", "http://[2001:db8::1]:80")),
        ("http://[2001:db8::1]:8001", ("http://[2001:db8::1]:8001", "http://[2001:db8::1]")),
    ],
)
def test_both_port_forms(base_url: str, forms: tuple[str, str]) -> None:
    """As written without user-info, and with the port added or taken off."""
    assert port_forms(base_url) == forms


@pytest.mark.parametrize("host", ["a.example.com", "a:1", "a:", "[::1]:80", "10.0.0.1", "a_b-c"])
def test_plain_hosts(host: str) -> None:
    """What may become the host of a URL that is believed."""
    assert is_plain(host)


@pytest.mark.parametrize(
    "host", ["", "a@b", "a/", "a?", "a#", "a b", "a,b", "a:b", "é", "a\n", "http://a", "a%2e"]
)
def test_hosts_that_would_change_the_url(host: str) -> None:
    """User-info, path, query, escapes and lists are no host."""
    assert not is_plain(host)


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    """No text raises."""
    assert len(port_forms(text)) == 2
