"""Who is calling, over every combination of what a request can say, and the rules about addresses
that the rest of the program shares.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import product
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from aiohttp import HttpVersion
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from berinia_webhookd.accept.proxy_headers import ProxyHeaders
from berinia_webhookd.addresses import (
    Network,
    believed_addresses,
    bucket_of,
    client_key,
    in_networks,
    is_allowed,
    is_loopback,
    is_this_machine,
    parse_network,
    peer_key,
    plain_http_allowed,
    require_allowed,
    split_port,
    unmapped,
)
from berinia_webhookd.errors import AddressRefused, LoopbackLocked
from berinia_webhookd.model import Caller

EVERYBODY: tuple[Network, ...] = (ip_network("0.0.0.0/0"), ip_network("::/0"))
THIS_MACHINE: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1"))
UNIX = "unix"
GONE = "gone"  # a TCP peer whose name cannot be had any more

PEERS = [
    "127.0.0.1",
    "127.9.9.9",
    "::1",
    "::ffff:127.0.0.1",
    "10.0.0.5",
    "198.51.100.7",
    UNIX,
    GONE,
]
FORWARDED_FOR = [
    None, "", "junk", "198.51.100.7", "127.0.0.1", "::1", "::ffff:127.0.0.1", "127.0.0.2",
    "127.0.0.1, 198.51.100.7", "198.51.100.7, 127.0.0.1", "198.51.100.7, 10.0.0.5", "10.0.0.5",
]  # fmt: skip
VIA = [None, "1.1 proxy"]
VERSIONS = [HttpVersion(1, 0), HttpVersion(1, 1)]
HOSTS = [None, "127.0.0.1:8001", "localhost", "[::1]:8001", "app.example.com", "127.0.0.1.example"]
PROXIES: list[tuple[Network, ...]] = [
    (ip_network("127.0.0.1"), ip_network("::1")),
    (ip_network("10.0.0.5"),),
    (*THIS_MACHINE, ip_network("10.0.0.0/8")),
    (),
]


class Said(NamedTuple):
    """What a request looks like from outside."""

    peer: str
    forwarded_for: str | None
    via: str | None
    version: HttpVersion
    host: str | None
    proxies: tuple[Network, ...]

    @property
    def peer_address(self) -> IPv4Address | IPv6Address | None:
        return None if self.peer in (UNIX, GONE) else unmapped(ip_address(self.peer))

    @property
    def peer_trusted(self) -> bool:
        return self.peer == UNIX or in_networks(self.proxies, self.peer_address)

    def caller(self) -> Caller:
        """Read it as the daemon does."""
        protocol = SimpleNamespace(
            peername=None if self.peer in (UNIX, GONE) else (self.peer, 50000),
            sockname="/run/sock" if self.peer == UNIX else ("127.0.0.1", 80),
        )
        headers: CIMultiDict[str] = CIMultiDict()
        for name, value in (
            ("Host", self.host),
            ("X-Forwarded-For", self.forwarded_for),
            ("Via", self.via),
        ):
            if value is not None:
                headers[name] = value
        request: Any = SimpleNamespace(headers=headers, protocol=protocol, version=self.version)
        return ProxyHeaders(self.proxies).identify(request)[0]


EVERYTHING = [Said(*said) for said in product(PEERS, FORWARDED_FOR, VIA, VERSIONS, HOSTS, PROXIES)]


def is_local(said: Said) -> bool:
    """SPEC's sentence, word by word, without our code."""
    loopback = said.peer in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", UNIX)
    if not loopback or said.forwarded_for is not None or said.via is not None:
        return False
    if said.version == HttpVersion(1, 0):
        return said.host is None
    return said.host in ("127.0.0.1:8001", "localhost", "[::1]:8001")


def named_client(said: Said) -> str | None:
    """The right-most untrusted address that a trusted proxy passes on; the peer without one."""
    if not said.peer_trusted:
        return None if said.peer_address is None else str(said.peer_address)
    if said.forwarded_for is None:
        return None
    named: str | None = None
    for text in reversed(said.forwarded_for.split(",")):
        try:
            address = unmapped(ip_address(text.strip()))
        except ValueError:
            return None
        named = str(address)
        if not in_networks(said.proxies, address):
            break
    return named


def test_one_rule_says_who_is_this_machine() -> None:
    """For every combination: nobody becomes this machine by being forwarded, whoever is trusted."""
    for said in EVERYTHING:
        assert is_this_machine(said.caller()) is is_local(said), said
        assert not is_this_machine(replace(said.caller(), loopback_locked=True)), said


def test_while_loopback_is_locked_nobody_is_in_a_list_of_its_addresses() -> None:
    """Who would be otherwise is told why; all others get the plain refusal."""
    for said in EVERYTHING:
        locked = replace(said.caller(), loopback_locked=True)
        kind = LoopbackLocked if is_local(said) else AddressRefused
        with pytest.raises(AddressRefused) as caught:
            require_allowed(THIS_MACHINE, locked, "refused")
        assert type(caught.value) is kind, said


def test_lists_of_addresses_follow_it() -> None:
    """A list that allows everybody lets in whoever can be named, and this machine is in a list of
    loopback addresses only by that rule.
    """
    for said in EVERYTHING:
        caller = said.caller()
        assert is_allowed(THIS_MACHINE, caller) is is_local(said), said
        client = named_client(said)
        elsewhere = client is not None and not ip_address(client).is_loopback
        assert is_allowed(EVERYBODY, caller) is (is_local(said) or elsewhere), said
        if elsewhere and not is_local(said):
            assert [str(address) for address in believed_addresses(caller)] == [client], said


def test_the_rate_limit_follows_it() -> None:
    """Whoever cannot be named shares one bucket, and never that of this machine."""
    for said in EVERYTHING:
        caller = said.caller()
        key = bucket_of(caller)
        if is_local(said):
            assert key == client_key(caller.peer or ip_address("127.0.0.1")), said
        elif not believed_addresses(caller):
            assert key == client_key(None), said
        else:
            assert key == client_key(ip_address(named_client(said) or "")), said


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("198.51.100.7", "::ffff:198.51.100.7", True),
        ("198.51.100.7", "198.51.100.8", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2", True),
    ],
)
def test_who_counts_as_one_peer(one: str, other: str, same: bool) -> None:
    """IPv6 by /64, mapped addresses unmapped; a trusted proxy is everybody."""
    assert (peer_key(one, ()) == peer_key(other, ())) is same
    assert peer_key(one, EVERYBODY) is None


def test_a_local_proxy_that_is_not_listed_lets_no_stranger_in() -> None:
    """`trusted_proxies` names another machine, and nginx on this one passes somebody on."""
    said = Said(
        "127.0.0.1", "198.51.100.7", None, HttpVersion(1, 1), "app.example.com",
        (ip_network("10.0.0.5"),),
    )  # fmt: skip
    assert not is_allowed(THIS_MACHINE, said.caller())


@pytest.mark.parametrize(
    "host",
    ["localhost", "LocalHost:8001", "127.0.0.1", "127.8.9.1:1", "[::1]", "[::1]:8001", "::1",
     "[::ffff:127.0.0.1]:80", "::ffff:127.0.0.1", "ip6-localhost", "::1%lo"],
)  # fmt: skip
def test_loopback_hosts(host: str) -> None:
    """Names and addresses of this very machine."""
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["", ":", "localhost.example.com", "127.0.0.1.example.com", "10.0.0.1", "[2001:db8::1]:80",
     "127.1", "0.0.0.0", "localhost@example.com", "example.com:127.0.0.1", "2130706433",
     "fe80::1%lo"],
)  # fmt: skip
def test_other_hosts(host: str) -> None:
    """What only looks like it is not loopback."""
    assert not is_loopback(host)


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    """No text raises, and splitting loses nothing."""
    host, port = split_port(text)
    assert text == (host if port is None else f"{host}:{port}")
    assert is_loopback(text) in (True, False)


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://agents.example.com/x", True),
        ("http://127.0.0.1:9000/x", True),
        ("http://[::1]:9000/x", True),
        ("http://localhost/x", True),
        ("HTTP://LOCALHOST/x", True),
        ("http://agents.example.com/x", False),
        ("http://10.0.0.1/x", False),
        ("http://localhost@example.com/x", False),
        ("http://localhost.example.com/x", False),
        ("ftp://127.0.0.1/x", False),
        ("http:", False),
    ],
)
def test_plain_http_is_for_this_machine(url: str, allowed: bool) -> None:
    """Nothing else may go out unencrypted."""
    assert plain_http_allowed(url) is allowed


def test_nobody_is_in_no_network() -> None:
    """None is in no network, not even in all of them; versions are not mixed."""
    assert not in_networks(EVERYBODY, None)
    assert in_networks([ip_network("::/0")], ip_address("::1"))
    assert not in_networks([ip_network("::/0")], ip_address("127.0.0.1"))


def test_addresses_are_compared_in_one_form() -> None:
    """Without the zone of a link, and IPv4 as IPv4."""
    assert unmapped(ip_address("fe80::1%eth0")) == IPv6Address("fe80::1")
    assert unmapped(ip_address("::ffff:203.0.113.7")) == IPv4Address("203.0.113.7")
    assert unmapped(ip_address("203.0.113.7")) == IPv4Address("203.0.113.7")


def test_networks_are_read() -> None:
    """An address is a network of one; a slip is answered by the nearest that is right."""
    assert parse_network("10.0.0.5") == ip_network("10.0.0.5/32")
    assert parse_network("2001:db8::/32") == ip_network("2001:db8::/32")
    with pytest.raises(ValueError, match=r"did you mean 10\.0\.0\.0/8"):
        parse_network("10.0.0.1/8")
    with pytest.raises(ValueError, match="give addresses or networks"):
        parse_network("everybody")
