"""Attacks on declared channels: requests altered, proofs moved, declarations in a hurry."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from typing import Any, Final
from urllib.parse import urlencode

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from multidict import CIMultiDict

from berinia_webhookd.channels.declared import presets
from berinia_webhookd.channels.declared.channel import DeclaredChannel
from berinia_webhookd.errors import (
    AddressRefused,
    DeliveryRejected,
    MalformedDelivery,
    SignatureInvalid,
)
from berinia_webhookd.model import Caller, Event, RawDelivery

from .declarations import NOW, settings_from
from .test_presets import channel_of
from .test_vectors import PROVEN, declared, request_of

SECRET: Final = "0123456789abcdef0123456789abcdef"
URL: Final = "https://hooks.example.com/x"
BODY: Final = '{"id":"1","text":"Oui"}'
VALID: Final = [one for one in PROVEN if one["valid"]]


def channel(**raw: Any) -> DeclaredChannel:
    """A channel that somebody declares."""
    return DeclaredChannel(settings_from({"secrets": [SECRET], "event": [{"text": "text"}], **raw}))


def complaints(**raw: Any) -> str:
    """What is said of a declaration before anything starts."""
    return " ".join(f"{one.subject} {one.what}" for one in channel(**raw).settings.errors())


def asked(
    body: str | bytes = BODY,
    headers: Mapping[str, str] | list[tuple[str, str]] | None = None,
    url: str = URL,
    method: str = "POST",
) -> RawDelivery:
    """A request."""
    vector = {"url": url, "headers": {}, "body": "", "now": NOW.timestamp(), "method": method}
    content = body if isinstance(body, bytes) else body.encode()
    return request_of(vector)._replace(body=content, headers=CIMultiDict(headers or {}))


def mac(content: str | bytes, secret: str = SECRET) -> str:
    content = content.encode() if isinstance(content, str) else content
    return hmac.new(secret.encode(), content, hashlib.sha256).hexdigest()


def only(channel: DeclaredChannel, delivery: RawDelivery) -> Event:
    """The event of a proven request."""
    (event,) = channel.decode(channel.verify(delivery)).events
    return event


def channel_for(vector: Mapping[str, Any]) -> DeclaredChannel:
    """The channel that takes a vector."""
    covered = "jwt_body_claim" in vector["declaration"] or vector["declaration"]["verify"] != "jwt"
    more: dict[str, Any] = {"methods": [vector["method"]], "body_unsigned": not covered}
    if "tolerance_seconds" not in vector["declaration"]:
        more["jwt_check_iat"] = False
    return DeclaredChannel(declared(vector["declaration"], vector["secrets"], **more))


# --- Captured requests, altered ---


def altered(vector: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every header that the proof needs changed, cut, emptied, doubled; the body by a byte."""
    for name, value in vector["headers"].items():
        others = {key: one for key, one in vector["headers"].items() if key != name}
        yield f"{name} left out", {**vector, "headers": others}
        for how, other in {
            "emptied": "",
            "cut": value[:-2],
            "first letter": chr(ord(value[0]) ^ 1) + value[1:] if value else "x",
            "NUL behind": value + "\0",
        }.items():
            yield f"{name} {how}", {**vector, "headers": {**others, name: other}}
        for again in (value, value + "x"):
            twice = [*vector["headers"].items(), (name.swapcase(), again)]
            yield f"{name} twice", {**vector, "headers": twice}
    url = vector["url"]
    for how, other in {
        "another path": url.replace("://", "://x.", 1),
        "another parameter": f"{url}{'&' if '?' in url else '?'}x=1",
        "without its parameters": url.partition("?")[0],
    }.items():
        if other != url:
            yield f"URL {how}", {**vector, "url": other}
    yield "method", {**vector, "method": "PUT"}
    body = vector["body"]
    for how, other in {
        "a blank behind": body + " ",
        "a letter more": body[:-1] + "x" + body[-1:],
        "empty": "" if body else "x",
        "another": '{"id":"2"}',
    }.items():
        yield f"body {how}", {**vector, "body": other}


def is_taken(channel: DeclaredChannel, vector: Mapping[str, Any]) -> bool:
    try:
        channel.verify(request_of(vector))
    except DeliveryRejected:
        return False
    return True


@pytest.mark.parametrize("vector", VALID, ids=[one["id"] for one in VALID])
def test_every_alteration_is_refused_or_changes_nothing(vector: dict[str, Any]) -> None:
    """What is taken all the same is what the proof never was over: another header, or the body
    where the declaration says so; then the proof is good for one body.
    """
    channel = channel_for(vector)
    original = channel.verify(request_of(vector))
    signed = vector["declaration"].get("signed", "")
    covered = {"URL another path"} if "{url" in signed else set()
    covered |= (
        {"URL another parameter"} if "{url}" in signed or "{url.decoded}" in signed else set()
    )
    for how, other in altered(vector):
        if not is_taken(channel, other):
            continue
        assert not how.startswith("method"), how
        assert how not in covered, how
        taken = channel.verify(request_of(other))
        if other["body"] != vector["body"]:
            holds_secret = vector["declaration"]["verify"] in {"basic", "token", "address"}
            same_key = taken.replay_key is not None and taken.replay_key == original.replay_key
            assert holds_secret or same_key, how
        else:
            assert taken.replay_key == original.replay_key, how


@pytest.mark.parametrize("vector", VALID, ids=[one["id"] for one in VALID])
def test_headers_in_any_letter_case(vector: dict[str, Any]) -> None:
    """HTTP knows no other."""
    recased = {name.swapcase(): value for name, value in vector["headers"].items()}
    assert is_taken(channel_for(vector), {**vector, "headers": recased})


@pytest.mark.parametrize("name", presets.names())
def test_a_request_of_one_provider_is_none_of_another(name: str) -> None:
    """With the same secret, unless both are the same scheme."""
    channel = channel_of(name)
    for vector in VALID:
        kind = vector["declaration"]
        if vector["secrets"][0] and kind["verify"] in {"basic", "token", "address"}:
            continue  # who has the secret itself is the provider
        raw = {**presets.declaration(name), "secrets": vector["secrets"]}
        try:
            other = DeclaredChannel(settings_from({**raw, "methods": [vector["method"]]}))
        except ValueError:
            continue
        if is_taken(other, vector):
            settings = channel_for(vector).settings
            mine = channel.settings
            assert settings.verify == mine.verify
            assert str(settings.signature).lower() == str(mine.signature).lower()
            if settings.signed is not None and mine.signed is not None:
                assert same_content(settings.signed.text, mine.signed.text, vector)


def same_content(one: str, other: str, vector: Mapping[str, Any]) -> bool:
    """`{fields}` of no form is nothing, so two templates may be one for a request."""
    bare = [text if vector["body"] else text.replace("{fields}", "") for text in (one, other)]
    return bare[0] == bare[1]


# --- A captured body under a new id ---


@pytest.mark.parametrize("place", ["header:X-Id", "query:id"])
def test_an_id_beside_what_is_signed_makes_nothing_new(place: str) -> None:
    """Neither a header nor a parameter."""
    proven = channel(
        verify="hmac-sha256", signature="X-Sig: {hex}", signed="{body}", event=[{"id": place}]
    )
    digests = {
        only(proven, asked(headers={"X-Sig": mac(BODY), "X-Id": id_}, url=f"{URL}?id={id_}")).digest
        for id_ in ("1", "2")
    }
    assert len(digests) == 1


def test_a_signed_name_of_json_is_no_signed_header() -> None:
    """`{json:x-id}` says nothing of the header X-Id."""
    proven = channel(
        verify="hmac-sha256",
        signature="X-Sig: {hex}",
        signed="{json:x-id}.{body}",
        event=[{"id": "header:X-Id"}],
    )
    body = '{"x-id":"7"}'
    headers = {"X-Sig": mac("7." + body)}
    one, two = (only(proven, asked(body, {**headers, "X-Id": id_})).digest for id_ in "12")
    assert one == two


def standard(id_: str, body: str = BODY, at: int | str = int(NOW.timestamp())) -> dict[str, str]:
    """The three values of the standard."""
    at = str(at)
    signature = hmac.new(SECRET.encode(), f"{id_}.{at}.{body}".encode(), hashlib.sha256).digest()
    value = f"v1,{base64.b64encode(signature).decode()}"
    return {"id": id_, "timestamp": at, "signature": value}


def test_two_sets_of_the_standards_headers() -> None:
    """A captured request under one prefix, with a new id under the other, is no new event."""
    secret = base64.b64encode(SECRET.encode()).decode()
    event = [{"id": [["header:svix-id", "header:webhook-id"]]}]
    proven = channel(verify="standard-webhooks", secrets=[secret], event=event)
    for signed, free in (("webhook-", "svix-"), ("svix-", "webhook-")):
        headers = {signed + name: value for name, value in standard("msg_1").items()}
        assert only(proven, asked(headers=headers)).message_id == "msg_1"
        for more in ({free + "id": "msg_2"}, {free + "id": ""}):
            with pytest.raises(SignatureInvalid):
                proven.verify(asked(headers={**headers, **more}))


MAILGUN: Final = {
    "verify": "hmac-sha256",
    "signature": "X-Sig: v1={hex}",
    "signed": "{header:X-Nonce}",
    "body_unsigned": True,
}


def test_a_proof_for_one_body_cannot_be_dressed_up() -> None:
    """False signatures beside the true one, and letter case, leave its replay key as it is."""
    proven = channel(**MAILGUN)
    true = mac("nonce")
    keys = {
        proven.verify(asked(headers={"X-Nonce": "nonce", "X-Sig": value})).replay_key
        for value in (
            f"v1={true}",
            f"v1={true.upper()}",
            f"v1={true},v1={'0' * 64}",
            f"v1=,v1={'1' * 64},v1={true}",
        )
    }
    assert len(keys) == 1
    assert None not in keys


def test_a_token_for_one_body_cannot_be_dressed_up() -> None:
    """What Base64 passes over in the signature."""
    proven = channel(verify="jwt", body_unsigned=True, jwt_check_iat=False)
    token = jwt.encode({"jti": "1"}, SECRET)
    keys = set()
    for spelling in (token, f"Bearer {token}", token + "=", token + "!", token + "=="):
        delivery = asked(headers={"Authorization": spelling})
        try:
            keys.add(proven.verify(delivery).replay_key)
        except SignatureInvalid:
            continue
    assert len(keys) == 1


FORM: Final = {
    "verify": "hmac-sha256",
    "signature": "X-Sig: {hex}",
    "signed": "{url}{fields}",
    "body": "form",
}


def form_of(fields: Mapping[str, str], **changed: str) -> RawDelivery:
    """A form under the signature of other fields."""
    signed = URL + "".join(name + value for name, value in sorted(fields.items()))
    return asked(urlencode({**fields, **changed}), {"X-Sig": mac(signed)})


def test_a_form_in_another_order_is_the_same() -> None:
    """Nothing signs the order of fields, or how they are escaped."""
    proven = channel(**FORM, event=[{"text": "Body"}])
    fields = {"Body": "é", "From": "A"}
    first = form_of(fields)
    others = [form_of(dict(reversed(fields.items()))), first._replace(body=b"From=%41&Body=%c3%a9")]
    assert {only(proven, one).digest for one in (first, *others)} == {only(proven, first).digest}


@pytest.mark.parametrize(
    "glued",
    [
        {"MessageSid": "SM1MessageStatussent", "To": "+33639980000"},
        {"MessageSid": "SM1", "MessageStatus": "sentTo+33639980000"},
        {"MessageSidSM1MessageStatus": "sent", "To": "+33639980000"},
        {"MessageSid": "SM1", "MessageStatuss": "ent", "To": "+33639980000"},
    ],
)
def test_fields_that_run_into_each_other(glued: dict[str, str]) -> None:
    """They are signed alike, and would be another event."""
    proven = channel(**FORM, event=[{"id": ["MessageSid", "MessageStatus"]}])
    true = {"MessageSid": "SM1", "MessageStatus": "sent", "To": "+33639980000"}
    delivery = form_of(true)
    assert only(proven, delivery).message_id == "SM1"
    with pytest.raises(SignatureInvalid):
        proven.verify(delivery._replace(body=urlencode(glued).encode()))


def test_a_get_with_a_body() -> None:
    """Nobody proves it, nobody reads it, and it makes nothing new."""
    proven = channel(
        verify="hmac-sha256",
        signature="X-Sig: {hex}",
        signed="{url}",
        body="query",
        methods=["GET"],
    )
    url = f"{URL}?text=Oui"
    one, two = (
        only(proven, asked(body, {"X-Sig": mac(url)}, url, "GET")) for body in ("", '{"text":"No"}')
    )
    assert (one.body, one.digest) == (two.body, two.digest) == ("Oui", one.digest)
    with pytest.raises(SignatureInvalid):
        proven.verify(asked("", {"X-Sig": mac(url)}, url + "&x=1", "GET"))


def test_what_stands_before_a_time_cannot_move_into_it() -> None:
    """Without a tolerance, too: else the text of one body is the body of another."""
    proven = channel(
        verify="hmac-sha256",
        signature="X-Sig: {hex}",
        signed="{time}.{body}",
        time="X-Time",
        body="form",
    )
    body = "text=hello.text=another"
    signature = {"X-Sig": mac(f"1792999990.{body}")}
    assert only(proven, asked(body, {**signature, "X-Time": "1792999990"})).body.startswith("hello")
    moved = asked("text=another", {**signature, "X-Time": "1792999990.text=hello"})
    with pytest.raises(SignatureInvalid):
        proven.verify(moved)


@pytest.mark.parametrize("seconds", [-301, -300, 0, 300, 301])
@pytest.mark.parametrize("text", ["{}", "{}.0", " {}"])
def test_the_edges_of_the_clock(seconds: int, text: str) -> None:
    """Taken to the second, in either direction."""
    proven = channel(
        verify="hmac-sha256",
        signature="X-Sig: {hex}",
        signed="{time}.{body}",
        time="X-Time",
        tolerance_seconds=300,
    )
    at = text.format(int(NOW.timestamp()) + seconds)
    delivery = asked(headers={"X-Time": at, "X-Sig": mac(f"{at}.{BODY}")})
    if abs(seconds) <= 300:
        assert proven.verify(delivery)
    else:
        with pytest.raises(SignatureInvalid):
            proven.verify(delivery)


@pytest.mark.parametrize("seconds", [-301, -300, 0, 300, 301])
def test_the_edges_of_the_standards_clock(seconds: int) -> None:
    """Five minutes, in either direction."""
    secret = base64.b64encode(SECRET.encode()).decode()
    proven = channel(verify="standard-webhooks", secrets=[secret])
    signed = standard("msg_1", at=int(NOW.timestamp()) + seconds)
    delivery = asked(headers={f"webhook-{name}": value for name, value in signed.items()})
    if abs(seconds) <= 300:
        assert proven.verify(delivery)
    else:
        with pytest.raises(SignatureInvalid):
            proven.verify(delivery)


@pytest.mark.parametrize(
    ("claim", "seconds", "taken"),
    [
        *(("iat", seconds, abs(seconds) <= 300) for seconds in (-301, -300, 300, 301)),
        *(("nbf", seconds, seconds <= 300) for seconds in (-10_000, 300, 301)),
        *(("exp", seconds, seconds >= -300) for seconds in (-301, -300, 10_000)),
    ],
)
def test_the_edges_of_a_tokens_clock(claim: str, seconds: int, taken: bool) -> None:
    """Its age by `iat`; not before `nbf`, not after `exp`, within the tolerance."""
    proven = channel(**JWT, tolerance_seconds=300)
    claims = {**CLAIMS, claim: int(NOW.timestamp()) + seconds}
    delivery = asked(headers={"Authorization": hand_made({"alg": "HS256"}, claims=claims)})
    if taken:
        assert proven.verify(delivery)
    else:
        with pytest.raises(SignatureInvalid):
            proven.verify(delivery)


@pytest.mark.parametrize(
    "at", ["", "nan", "inf", "-inf", "1e400", "9" * 5000, "x", "0x10", "\ud800"]
)
@pytest.mark.parametrize("unit", ["s", "ms", "iso"])
def test_times_that_are_none(at: str, unit: str) -> None:
    """Signed or not, they are no time."""
    proven = channel(
        verify="hmac-sha256",
        signature="X-Sig: {hex}",
        signed="{body}.{json:at}",
        time="json:at",
        time_unit=unit,
        tolerance_seconds=300,
    )
    body = json.dumps({"at": at})
    read = at.replace("\ud800", "\ufffd")
    with pytest.raises(SignatureInvalid):
        proven.verify(asked(body, {"X-Sig": mac(f"{body}.{read}")}))


@pytest.mark.parametrize("host", ["hooks.example.com/x?", "user@hooks.example.com", "a b", "", "é"])
def test_a_host_that_is_more_than_a_host(host: str) -> None:
    """It would put a part of ours into a URL that was signed for another."""
    proven = channel(verify="hmac-sha256", signature="X-Sig: {hex}", signed="{url}{body}")
    delivery = asked()
    caller = delivery.caller.__class__(None, None, "https", host, False, False)
    forged = delivery._replace(
        caller=caller, headers={"X-Sig": mac(f"https://{host}{delivery.target}{BODY}")}
    )
    with pytest.raises(SignatureInvalid):
        proven.verify(forged)


# --- Tokens ---

JWT: Final = {"verify": "jwt", "jwt_body_claim": "payload_hash"}
CLAIMS: Final = {
    "iat": int(NOW.timestamp()),
    "payload_hash": hashlib.sha256(BODY.encode()).hexdigest(),
}


def segment(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def hand_made(head: Mapping[str, object], key: str = SECRET, claims: object = CLAIMS) -> str:
    """A token with a head that no library writes."""
    signed = f"{segment(head)}.{segment(claims)}"
    digest = hmac.new(key.encode(), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def forged_tokens() -> Iterator[tuple[str, str]]:
    yield "none", f"{segment({'alg': 'none'})}.{segment(CLAIMS)}."
    for name in ("None", "NONE", "nOnE", "", "HS384", "RS256", "ES256", "hs256"):
        yield name, hand_made({"alg": name, "typ": "JWT"})
    yield "no alg", hand_made({"typ": "JWT"})
    yield "alg a list", hand_made({"alg": ["HS256"]})
    yield "another key", hand_made({"alg": "HS256"}, "another")
    yield "empty key", hand_made({"alg": "HS256"}, "")
    key = {"kty": "oct", "k": base64.urlsafe_b64encode(b"evil").decode()}
    yield "its own key", hand_made({"alg": "HS256", "jwk": key}, "evil")
    yield "a kid that is a path", hand_made({"alg": "HS256", "kid": "../../dev/null"}, "")
    yield "a kid that is SQL", hand_made({"alg": "HS256", "kid": "x' UNION SELECT 'evil"}, "evil")
    yield "a kid that is an object", hand_made({"alg": "HS256", "kid": {"a": 1}}, "evil")
    yield "a key to fetch", hand_made({"alg": "HS256", "jku": "http://127.0.0.1:1/"}, "evil")
    yield "detached", hand_made({"alg": "HS256", "b64": False, "crit": ["b64"]}, "evil")
    yield "huge", "e30." * 100_000
    yield "one huge part", "a" * 1_000_000 + ".b.c"
    nested = base64.urlsafe_b64encode(b"[" * 100_000).decode()
    yield "nested", f"{nested}.{nested}.x"
    yield "not UTF-8", "\udcff.\udcff.\udcff"
    yield "claims a list", hand_made({"alg": "HS256"}, claims=[1])
    yield "no body", hand_made({"alg": "HS256"}, claims={"iat": CLAIMS["iat"]})
    yield "digest a list", hand_made({"alg": "HS256"}, claims={**CLAIMS, "payload_hash": [""]})
    for name in ("iat", "nbf", "exp"):
        odd: tuple[object, ...] = ("1e999", None, "x", True, [], {})
        for value in odd:
            yield f"{name} {value}", hand_made({"alg": "HS256"}, claims={**CLAIMS, name: value})


TOKENS: Final = list(forged_tokens())


@pytest.mark.parametrize("token", [one for _, one in TOKENS], ids=[one for one, _ in TOKENS])
def test_forged_tokens(token: str) -> None:
    """The token's own word on its algorithm and key counts for nothing."""
    proven = channel(**JWT)
    assert proven.verify(asked(headers={"Authorization": hand_made({"alg": "HS256"})}))
    with pytest.raises(SignatureInvalid):
        proven.verify(asked(headers={"Authorization": f"Bearer {token}"}))


def pem(kind: str) -> str:
    """A key that anybody may know."""
    key = {
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
    }[kind]()
    public = key.public_key()  # type: ignore[attr-defined]
    return str(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


TEMPLATES: Final = {"signature": "X-Sig: {hex}", "signed": "{body}"}


@pytest.mark.parametrize("kind", ["rsa", "p256", "ed25519"])
@pytest.mark.parametrize("verify", ["hmac-sha256", "jwt", "token", "standard-webhooks"])
def test_a_public_key_is_no_secret(kind: str, verify: str) -> None:
    """Whoever knows it could sign; it is found at start, and nothing is taken."""
    raw = {"verify": verify, "secrets": [pem(kind)], "jwt_body_claim": "payload_hash"}
    raw |= {**TEMPLATES, "token": "header:X-Token", "secret_encoding": "pem"}
    assert "secrets" in complaints(**raw)
    token = hand_made({"alg": "HS256"}, pem(kind))
    with pytest.raises(SignatureInvalid):
        channel(**raw).verify(asked(headers={"Authorization": token}))


@pytest.mark.parametrize(
    ("verify", "secret"),
    [
        ("ecdsa-p256", pem("rsa")),
        ("ecdsa-p256", pem("p384")),
        ("ecdsa-p256", pem("ed25519")),
        ("ecdsa-p256", "AAAA"),
        ("ecdsa-p256", SECRET),
        ("ed25519", pem("ed25519")),
        ("ed25519", "AAAA"),
        ("standard-webhooks", "whsec_"),
        ("standard-webhooks", "not base64!"),
        ("basic", "password"),
        ("basic", "user:"),
    ],
)
def test_secrets_of_another_kind(verify: str, secret: str) -> None:
    """Each is found at start, and nothing is taken."""
    raw = {"verify": verify, "secrets": [secret], **TEMPLATES}
    assert "secrets" in complaints(**raw)
    with pytest.raises(SignatureInvalid):
        channel(**raw).verify(asked(headers={"X-Sig": mac(BODY, "")}))


# --- Declarations in a hurry ---


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"signed": "{time}"}, "does not cover what is read"),
        ({"signed": "{json:id}"}, "does not cover what is read"),
        ({"signed": "{fields}"}, "does not cover what is read"),
        ({"signed": "{url}"}, "does not cover what is read"),
        ({"signed": "fixed"}, "does not cover what is read"),
        ({"signed": "{time}", "body_hash_query": "h"}, "does not cover what is read"),
        ({"signed": "{url.bare}", "body_hash_query": "h"}, "does not cover what is read"),
        ({"signed": "{body}", "body": "query", "methods": ["GET"]}, "does not cover what is read"),
        ({"signed": "{time}{body}"}, "{time} stands in signed"),
        ({"tolerance_seconds": 5}, "covers no time"),
        ({"tolerance_seconds": 5, "time": "X-Time"}, "covers no time"),
        ({"signature": "X-Sig: {time},{hex}", "tolerance_seconds": 5}, "covers no time"),
        ({"event": []}, "event is not set"),
        ({"verify": "token", "token": "header:X", "tolerance_seconds": 5}, "proves no time"),
        ({"verify": "jwt"}, "vouches for any body"),
        (
            {"verify": "jwt", "body": "query", "methods": ["GET"], "jwt_body_claim": "h"},
            "vouches for any URL",
        ),
        (
            {"verify": "standard-webhooks", "body": "query", "methods": ["GET"]},
            "this scheme does not cover",
        ),
    ],
)
def test_a_declaration_in_a_hurry(raw: dict[str, Any], words: str) -> None:
    """What it leaves open is said before anything starts."""
    assert words in complaints(**{"verify": "hmac-sha256", **TEMPLATES, **raw})


@pytest.mark.parametrize(
    "raw",
    [
        {"signed": "{body}{body}"},
        {"signed": "{body.sha256}"},
        {"signed": "{url}", "body_hash_query": "h"},
        {"signed": "{url}{fields}", "body": "form"},
        {"signed": "{url}", "body": "query", "methods": ["GET"]},
        {"signed": "{body}", "time": "json:at", "tolerance_seconds": 5},
        {"signed": "{time}", "time": "X-Time", "body_unsigned": True},
    ],
)
def test_declarations_that_are_sound(raw: dict[str, Any]) -> None:
    """Odd is not wrong."""
    assert complaints(**{"verify": "hmac-sha256", **TEMPLATES, **raw}) == ""


def test_a_body_twice_is_a_body_twice() -> None:
    """And nothing less."""
    proven = channel(verify="hmac-sha256", signature="X-Sig: {hex}", signed="{body}{body}")
    assert proven.verify(asked(headers={"X-Sig": mac(BODY * 2)}))
    with pytest.raises(SignatureInvalid):
        proven.verify(asked(headers={"X-Sig": mac(BODY)}))


@pytest.mark.parametrize("secret", ["", " "])
def test_an_empty_secret(secret: str) -> None:
    """It is not read at all."""
    with pytest.raises(ValueError, match="give"):
        channel(verify="hmac-sha256", **TEMPLATES, secrets=[secret])


def test_items_that_lead_nowhere() -> None:
    """What was proven and held nothing is kept as rejected, never lost behind a 200."""
    proven = channel(
        verify="hmac-sha256", **TEMPLATES, event=[{"items": ["no", "such"], "text": "text"}]
    )
    for body in (BODY, '{"no":[]}', '{"no":{"such":[1]}}', '{"no":[{"such":"x"}]}', "[]"):
        with pytest.raises(MalformedDelivery):
            proven.decode(proven.verify(asked(body, {"X-Sig": mac(body)})))


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"id":"1","id":"2"}',
        b'{"id":"1","\\u0069d":"2"}',
        b'{"id":"1","id" :"2"}',
        b'{"id":123456789012345678901234567890}',
        b'{"id":1e999}',
        b'{"id":NaN}',
        b"9" * 100_000,
        b"\xef\xbb\xbf{}",
        b'{"id":"\xff"}',
        b"",
    ],
)
@pytest.mark.parametrize("signed", ["{body}", "{json:id}{body}"])
def test_bodies_that_are_none(body: bytes, signed: str) -> None:
    """Kept as rejected where they were proven, refused where the proof needs to read them."""
    proven = channel(verify="hmac-sha256", signature="X-Sig: {hex}", signed=signed)
    with pytest.raises((MalformedDelivery, SignatureInvalid)):
        proven.decode(proven.verify(asked(body, {"X-Sig": mac(body)})))


def test_halves_of_pairs_and_bytes_that_are_no_text() -> None:
    """They are replaced where they are read: no database holds them."""
    event = [{"id": "id", "text": "text", "subject": "header:X-Name", "thread": "query:in"}]
    proven = channel(verify="hmac-sha256", **TEMPLATES, event=event)
    body = '{"id":"\\ud800","text":"a\\udfff"}'
    headers = {"X-Sig": mac(body), "X-Name": "\udcff"}
    event_ = only(proven, asked(body, headers, f"{URL}?in=%FF"))
    for text in (event_.body, event_.subject, event_.thread):
        assert text is not None
        assert "\ufffd" in text
        text.encode()
    by_query = channel(
        verify="hmac-sha256",
        signature="X-Sig: {hex}",
        signed="{url}",
        body="query",
        methods=["GET"],
    )
    url = f"{URL}?text=%FF\udcff&%FF=1"
    content = url.encode("utf-8", "surrogateescape")
    event_ = only(by_query, asked("", {"X-Sig": mac(content)}, url, "GET"))
    assert event_.body == "\ufffd\ufffd"
    json.dumps(dict(event_.raw)).encode()


# --- Addresses ---

HERE: Final = IPv4Address("127.0.0.1")
STRANGER: Final = IPv4Address("203.0.113.9")


@pytest.mark.parametrize(
    ("caller", "taken"),
    [
        (Caller(HERE, HERE, "http", "127.0.0.1:8001", forwarded=False, peer_trusted=True), True),
        (
            Caller(HERE, HERE, "http", "hooks.example.com", forwarded=False, peer_trusted=True),
            False,
        ),
        (Caller(HERE, HERE, "https", "127.0.0.1", forwarded=True, peer_trusted=True), False),
        (Caller(HERE, STRANGER, "https", "h", forwarded=True, peer_trusted=True), True),
        (Caller(STRANGER, STRANGER, "https", "h", forwarded=False, peer_trusted=False), True),
        (Caller(STRANGER, STRANGER, "https", "h", forwarded=False, peer_trusted=True), False),
        (
            Caller(*(HERE, HERE, "http", "127.0.0.1", False, True), loopback_locked=True),
            False,
        ),
        (Caller(None, None, "https", "h", forwarded=False, peer_trusted=False), False),
    ],
)
@pytest.mark.parametrize("raw", [{"verify": "address"}, {"verify": "token", "token": "header:X"}])
def test_a_proxy_lends_nobody_its_address(raw: dict[str, Any], caller: Caller, taken: bool) -> None:
    """One rule for every channel that trusts an address, alone or besides its proof."""
    proven = channel(**raw, allowed_ips=["127.0.0.1", "203.0.113.0/24"])
    delivery = asked(headers={"X": SECRET})._replace(caller=caller)
    if taken:
        assert proven.verify(delivery)
    else:
        with pytest.raises(AddressRefused):
            proven.verify(delivery)


# --- Secrets in the query ---


@pytest.mark.parametrize(
    "query",
    [
        f"k={SECRET}",
        f"%6b={SECRET}",
        f"%6B={SECRET}&x=1",
        f"k={SECRET}&k={SECRET}",
        f"k={SECRET}&%6b={SECRET}",
        f"a=b&k={SECRET}",
        "k=" + "".join(f"%{ord(one):02x}" for one in SECRET),
        f"k={SECRET}&k=&k",
    ],
)
def test_a_secret_in_the_query_is_not_kept(query: str) -> None:
    """However its name is spelt, and however often it stands there."""
    for body, method in (("json", "POST"), ("query", "GET")):
        proven = channel(verify="token", token="query:k", body=body, methods=[method])
        kept = proven.verify(asked(url=f"{URL}?text=Oui&{query}", method=method))
        event = proven.decode(kept).events[0]
        spelt = "".join(f"%{ord(one):02x}" for one in SECRET)
        for text in (kept.target, repr(kept), repr(event), repr(event.raw)):
            assert SECRET not in text
            assert spelt not in text


@pytest.mark.parametrize("query", ["", "k=", "k", f"K={SECRET}", f"k=x&k={SECRET}", f"k={SECRET}x"])
def test_a_query_without_the_secret(query: str) -> None:
    """The first of several counts."""
    with pytest.raises(SignatureInvalid):
        channel(verify="token", token="query:k").verify(asked(url=f"{URL}?{query}"))


# --- Questions as oracles ---

QUESTION: Final = {
    "when": "query:crc_token",
    "reply_json": {"response_token": "{hmac.hex:query:crc_token}"},
}


@pytest.mark.parametrize("word", ["123", "true", "null", "1e5", "STOP=", "1792999990.7", "a.1.7"])
def test_an_answer_to_a_question_signs_no_delivery(word: str) -> None:
    """Whoever asks gets a MAC of a word; a word is no object and no list."""
    proven = channel(verify="hmac-sha256", **TEMPLATES, handshake=QUESTION)
    assert complaints(verify="hmac-sha256", **TEMPLATES, handshake=QUESTION) == ""
    answer = proven.handshake(asked(url=f"{URL}?{urlencode({'crc_token': word})}", method="GET"))
    assert answer is not None
    signature = json.loads(answer.body)["response_token"]
    assert signature == mac(word)
    with pytest.raises(SignatureInvalid):
        proven.verify(asked(word, {"X-Sig": signature}))
    assert proven.verify(asked(headers={"X-Sig": mac(BODY)}))


@pytest.mark.parametrize(
    "raw",
    [
        {"signed": "{header:X-Nonce}", "body_unsigned": True},
        {"signed": "{body}", "body": "form"},
        {"signed": "{body}", "body": "form", "handshake_secrets": [SECRET]},
    ],
)
def test_a_question_that_would_sign_deliveries(raw: dict[str, Any]) -> None:
    """It is found at start; with a secret of its own it is none."""
    raw = {"verify": "hmac-sha256", **TEMPLATES, **raw, "handshake": QUESTION}
    assert "a MAC that could be the signature" in complaints(**raw)
    assert complaints(**{**raw, "handshake_secrets": ["another"]}) == ""


def test_a_question_in_a_body_is_read_once_it_is_proven() -> None:
    """Strangers have nothing of theirs parsed, and nothing repeated to them."""
    proven = channel_of("slack", SECRET)
    body = '{"type":"url_verification","challenge":"x"}'
    with pytest.raises(SignatureInvalid):
        proven.handshake(asked(body))
    assert proven.handshake(asked('{"type":"event_callback"}')) is None
    at = str(int(NOW.timestamp()))
    headers = {
        "X-Slack-Request-Timestamp": at,
        "X-Slack-Signature": f"v0={mac(f'v0:{at}:{body}')}",
    }
    answer = proven.handshake(asked(body, headers))
    assert answer is not None
    assert answer.body == b"x"
