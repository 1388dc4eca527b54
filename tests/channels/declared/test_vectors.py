"""Known answers of providers, each with the declaration that proves it: what is valid is taken, and
what is not is refused. Their sources stand beside them in the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import pytest
from multidict import CIMultiDict

from berinia_webhookd.channels.declared.channel import DeclaredChannel
from berinia_webhookd.channels.declared.settings import DeclaredSettings
from berinia_webhookd.errors import DeliveryRejected, SignatureInvalid
from berinia_webhookd.model import Caller, ChannelName, RawDelivery

from .declarations import settings_from

VECTORS: Final = json.loads((Path(__file__).parent / "vectors.json").read_text("utf-8"))
PASSED_OVER: Final = frozenset({"aws-sns"})  # it must fetch a certificate: docs/providers.md
HANDSHAKES: Final = {
    "meta": {
        "when": "query:hub.mode=subscribe",
        "check": "query:hub.verify_token",
        "reply": "query:hub.challenge",
    },
    "slack": {"when": "json:type=url_verification", "reply": "json:challenge"},
    "x": {
        "when": "query:crc_token",
        "reply_json": {"response_token": "sha256={hmac.base64:query:crc_token}"},
    },
}
SLACK: Final = next(one["declaration"] for one in VECTORS if one["provider"] == "slack")
# The words of a vector where the settings have others.
RENAMED: Final = {"issuer": "jwt_issuer", "time_json": "time"}
LEFT_OUT: Final = frozenset({"header_prefix", "many"})  # both are understood without a word


def declared(declaration: Mapping[str, Any], secrets: list[str], **more: Any) -> DeclaredSettings:
    """The settings of a declaration, read as the file's are."""
    raw: dict[str, Any] = {"secrets": secrets, **more}
    for name, value in declaration.items():
        if name == "time_json":
            raw["time"] = f"json:{value}"
        elif name == "signature" and value.startswith("json:"):
            raw["signature"] = f"{value}: {{hex}}"
        elif name not in LEFT_OUT:
            raw[RENAMED.get(name, name)] = value
    if isinstance(signed := raw.get("signed"), str):
        raw["signed"] = signed.replace("\\n", "\n")
    return settings_from({"event": [{"id": "id"}], **raw})


def request_of(vector: Mapping[str, Any]) -> RawDelivery:
    """The request of a vector, at its own time."""
    url = urlsplit(vector["url"])
    caller = Caller(None, None, url.scheme, url.netloc, forwarded=False, peer_trusted=False)
    headers: CIMultiDict[str] = CIMultiDict(vector["headers"])
    kind = headers.get("Content-Type", "")
    target = url.path + (f"?{url.query}" if url.query else "")
    return RawDelivery(
        channel=ChannelName("x"),
        caller=caller,
        target=target,
        headers=headers,
        content_type=kind.partition(";")[0],
        content_type_header=kind,
        body=vector["body"].encode(),
        received_at=datetime.fromtimestamp(vector["now"] or 1793000000, UTC),
        method=vector["method"],
    )


PROVEN = [one for one in VECTORS if "declaration" in one]


@pytest.mark.parametrize("vector", PROVEN, ids=[one["id"] for one in PROVEN])
def test_a_known_answer(vector: Mapping[str, Any]) -> None:
    """By the vector's own clock."""
    covered = "jwt_body_claim" in vector["declaration"] or vector["declaration"]["verify"] != "jwt"
    more = {"methods": [vector["method"]], "body_unsigned": not covered}
    if "tolerance_seconds" not in vector["declaration"]:
        more["jwt_check_iat"] = False
    settings = declared(vector["declaration"], vector["secrets"], **more)
    channel = DeclaredChannel(settings)
    if vector["valid"]:
        assert channel.verify(request_of(vector)).body == vector["body"].encode()
    else:
        with pytest.raises(DeliveryRejected):
            channel.verify(request_of(vector))


ASKED = [one for one in VECTORS if one["scheme"] == "handshake"]


@pytest.mark.parametrize("vector", ASKED, ids=[one["id"] for one in ASKED])
def test_a_handshake(vector: Mapping[str, Any]) -> None:
    """The question is answered word for word, or refused."""
    provider = vector["provider"]
    more = {"handshake": HANDSHAKES[provider], "handshake_secrets": vector["secrets"]}
    channel = DeclaredChannel(declared(SLACK, vector["secrets"], **more))
    if not vector["valid"]:
        with pytest.raises(DeliveryRejected):
            channel.handshake(request_of(vector))
        return
    answer = channel.handshake(request_of(vector))
    assert answer is not None
    assert (answer.content_type, answer.body.decode()) == (
        vector["reply_content_type"],
        vector["reply"],
    )


def test_a_question_in_a_body_needs_the_proof() -> None:
    """Nobody else gets an answer."""
    (vector,) = (one for one in ASKED if one["provider"] == "slack")
    channel = DeclaredChannel(declared(SLACK, ["another"], handshake=HANDSHAKES["slack"]))
    with pytest.raises(SignatureInvalid):
        channel.handshake(request_of(vector))


@pytest.mark.parametrize("token", ['{"a":1}', "a=b&c=d", "[]", "", "a b", "x" * 600])
def test_nobody_has_a_body_signed(token: str) -> None:
    """What a MAC is given for cannot be the body of a message."""
    (vector,) = (one for one in ASKED if one["provider"] == "x")
    asked = {**vector, "url": f"https://hooks.example.com/x?{urlencode({'crc_token': token})}"}
    channel = DeclaredChannel(declared(SLACK, ["secret"], handshake=HANDSHAKES["x"]))
    with pytest.raises(SignatureInvalid):
        channel.handshake(request_of(asked))


def test_none_is_left_out_unseen() -> None:
    """What has no declaration is a handshake, tried elsewhere, or passed over by name."""
    others = [one for one in VECTORS if one not in PROVEN and one not in ASKED]
    assert (len(PROVEN), len(ASKED), len(others)) == (89, 4, 7)
    assert {one["provider"] for one in others} == PASSED_OVER
