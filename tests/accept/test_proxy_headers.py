"""Who is calling, as far as it can be believed."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any
from unittest.mock import Mock

import pytest
from aiohttp import HttpVersion, HttpVersion10, HttpVersion11
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from berinia_webhookd.accept.proxy_headers import ProxyHeaders
from berinia_webhookd.model import Caller

TRUSTED = [ip_network("127.0.0.1"), ip_network("::1"), ip_network("10.0.0.0/8")]
UNIX = "/run/door.sock"


def call(
    *headers: tuple[str, str],
    peer: str | None = "127.0.0.1",
    sockname: Any = ("127.0.0.1", 80),
    version: HttpVersion = HttpVersion11,
) -> Caller:
    """Who a request with these headers is from, when it comes from that peer."""
    protocol = Mock(spec=["peername", "sockname", "ssl_context"])
    protocol.peername = None if peer is None else (peer, 50000)
    protocol.sockname = sockname
    request = make_mocked_request(
        "POST",
        "/",
        headers=CIMultiDict([("Host", "app.example.com"), *headers]),
        protocol=protocol,
        version=version,
    )
    return ProxyHeaders(TRUSTED).identify(request)[0]


def forwarded_for(*values: str) -> list[tuple[str, str]]:
    return [("X-Forwarded-For", value) for value in values]


@pytest.mark.parametrize(
    ("values", "client"),
    [
        (["203.0.113.7"], "203.0.113.7"),
        (["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
        (["203.0.113.7, 10.1.2.3"], "203.0.113.7"),
        (["203.0.113.7, 10.1.2.3, 127.0.0.1"], "203.0.113.7"),
        (["127.0.0.1, 203.0.113.7"], "203.0.113.7"),
        (["junk, 203.0.113.7"], "203.0.113.7"),
        ([", 203.0.113.7"], "203.0.113.7"),
        (["203.0.113.7", "10.1.2.3"], "203.0.113.7"),
        (["198.51.100.1", "203.0.113.7"], "203.0.113.7"),
        (["  203.0.113.7\t"], "203.0.113.7"),
        (["2001:db8::7"], "2001:db8::7"),
        (["::ffff:203.0.113.7"], "203.0.113.7"),
        (["203.0.113.7, ::ffff:10.1.2.3"], "203.0.113.7"),
        (["fe80::1%eth0"], "fe80::1"),
        (["10.1.2.3"], "10.1.2.3"),
        (["10.9.9.9, 10.1.2.3"], "10.9.9.9"),
    ],
)
def test_the_client_is_the_right_most_untrusted_address(values: list[str], client: str) -> None:
    """Whatever stands left of it is ignored; several header lines are one list."""
    caller = call(*forwarded_for(*values))
    assert caller.client == ip_address(client)
    assert caller.forwarded
    assert caller.peer_trusted


@pytest.mark.parametrize(
    "values",
    [
        [""],
        ["junk"],
        ["203.0.113.7, junk"],
        ["203.0.113.7, junk, 10.1.2.3"],
        ["203.0.113.7,"],
        ["203.0.113.7", ""],
        ["unknown"],
        ["203.0.113.7:4711"],
        ["[2001:db8::7]"],
        ["203.0.113.7 203.0.113.8"],
        ["0x7f.1"],
        ["127.1"],
        ["１２７.0.0.1"],
    ],
)
def test_junk_where_it_decides_names_nobody(values: list[str]) -> None:
    """A proxy whose word cannot be read speaks for nobody, least of all for itself."""
    caller = call(*forwarded_for(*values))
    assert caller.client is None
    assert caller.forwarded


@pytest.mark.parametrize("peer", ["203.0.113.99", "2001:db8::99"])
def test_a_strangers_forwarded_headers_are_not_believed(peer: str) -> None:
    """The peer must be trusted before its headers count."""
    caller = call(*forwarded_for("10.1.2.3"), ("X-Forwarded-Proto", "https"), peer=peer)
    assert caller.client == caller.peer == ip_address(peer)
    assert caller.scheme == "http"
    assert caller.forwarded
    assert not caller.peer_trusted


@pytest.mark.parametrize(
    "header",
    [
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Port", "444"),
        ("X-Forwarded-Prefix", "/x"),
        ("X-Forwarded-Proto", "https"),
        ("x-forwarded-anything", "1"),
        ("Forwarded", "for=203.0.113.7;host=evil.example"),
        ("X-Real-IP", "203.0.113.7"),
        ("Via", "1.1 proxy"),
    ],
)
def test_a_proxy_that_does_not_say_for_whom_names_nobody(header: tuple[str, str]) -> None:
    """Other forwarding headers are noticed, and used for nothing."""
    caller = call(header)
    assert caller.forwarded
    assert caller.client is None
    assert caller.host == "app.example.com"


def test_the_version_of_http_is_noted() -> None:
    """It tells nginx without its headers from a program on this machine (see `addresses`)."""
    assert call(version=HttpVersion10).http_version == (1, 0)
    assert call().http_version == (1, 1)


def test_a_trusted_peer_speaks_for_itself_when_it_forwards_nothing() -> None:
    """Without any forwarding header the peer is the client."""
    caller = call()
    assert caller.client == caller.peer == ip_address("127.0.0.1")
    assert not caller.forwarded


@pytest.mark.parametrize(
    ("values", "scheme"),
    [
        (["https"], "https"),
        (["HTTPS"], "https"),
        (["http"], "http"),
        (["https, http"], "http"),
        (["http, https"], "https"),
        (["http", "https"], "https"),
        (["https", "http"], "http"),
        (["wss"], "http"),
        (["https://"], "http"),
        ([""], "http"),
        ([" https "], "https"),
    ],
)
def test_the_right_most_scheme_counts(values: list[str], scheme: str) -> None:
    """Only http and https are schemes."""
    headers = [("X-Forwarded-Proto", value) for value in values]
    assert call(*forwarded_for("203.0.113.7"), *headers).scheme == scheme


def test_a_peer_mapped_into_ipv6_is_ipv4() -> None:
    """On a dual-stack socket 127.0.0.1 is still 127.0.0.1."""
    caller = call(peer="::ffff:127.0.0.1")
    assert caller.peer == ip_address("127.0.0.1")
    assert caller.peer_trusted


def test_a_unix_socket_is_a_trusted_proxy() -> None:
    """It has no address of its own; it may name the client."""
    unforwarded = call(peer=None, sockname=UNIX)
    assert (unforwarded.peer, unforwarded.client) == (None, None)
    assert unforwarded.peer_trusted
    named = call(*forwarded_for("203.0.113.7"), peer=None, sockname=UNIX)
    assert named.client == ip_address("203.0.113.7")


@pytest.mark.parametrize("sockname", [("127.0.0.1", 80), None])
def test_a_peer_that_is_gone_is_not_taken_for_a_unix_socket(sockname: Any) -> None:
    """A TCP peer whose name cannot be had is trusted in nothing."""
    caller = call(*forwarded_for("10.1.2.3"), peer=None, sockname=sockname)
    assert not caller.peer_trusted
    assert caller.client is None
