"""The settings of a declared channel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from berinia_webhookd.addresses import Network
from berinia_webhookd.channels.declared.answers import FixedAnswer, fixed_answer
from berinia_webhookd.channels.declared.contradictions import SCHEMES, contradictions, of_asking
from berinia_webhookd.channels.declared.events import Block, blocks
from berinia_webhookd.channels.declared.fields import Condition, conditions
from berinia_webhookd.channels.declared.handshake import Handshake, handshake
from berinia_webhookd.channels.declared.jwt_proof import JwtProof
from berinia_webhookd.channels.declared.keys import (
    HASHES,
    PEM,
    EcdsaKeys,
    Ed25519Keys,
    Keys,
    MacKeys,
    UnusableKey,
    decoded,
)
from berinia_webhookd.channels.declared.listing import Listing, given_values, listing
from berinia_webhookd.channels.declared.password_proof import BasicProof, TokenProof
from berinia_webhookd.channels.declared.proof import AddressProof, Clock, Proof
from berinia_webhookd.channels.declared.signature_proof import SignatureProof, StandardWebhooksProof
from berinia_webhookd.channels.declared.templates import SignatureTemplate, SignedTemplate
from berinia_webhookd.channels.form import URLENCODED
from berinia_webhookd.config import values
from berinia_webhookd.config.channel_settings import ChannelSettings
from berinia_webhookd.config.fields import setting
from berinia_webhookd.config.secret import Secret
from berinia_webhookd.config.values import DAY, STATUS, exactly, many, network, number, one_of, text
from berinia_webhookd.findings import Finding, warning, wrong
from berinia_webhookd.model import AgentName

JSON: Final = "application/json"
_STANDARD_TOLERANCE: Final = 300.0
JWT_ALGORITHMS: Final = ("HS256", "HS384", "HS512")


@dataclass(frozen=True, slots=True)
class DeclaredSettings(ChannelSettings):
    """A channel of kind `declared`."""

    built_in: ClassVar = None

    preset: str | None = setting(
        text,
        None,
        "a declaration that comes with the daemon; what stands in the file wins over it",
        unset="none",
        example="telnyx",
        file_only=True,
    )
    verify: str | None = setting(
        one_of(*SCHEMES),
        None,
        "how a request proves who sent it: " + ", ".join(f"`{one}`" for one in SCHEMES),
        unset="must be set, here or by the preset",
        example="hmac-sha256",
        file_only=True,
    )
    signature: SignatureTemplate | None = setting(
        SignatureTemplate.parse,
        None,
        "where the signature stands, as the provider's page writes it",
        example="X-Hub-Signature-256: sha256={hex}",
        file_only=True,
    )
    signed: SignedTemplate | None = setting(
        SignedTemplate.parse,
        None,
        "what it is over: `{body}`, `{body.sha256}`, `{time}`, `{url}`, `{url.bare}`, "
        "`{url.decoded}`, `{method}`, `{fields}`, `{json:a.b}`, `{header:X}`",
        example="{body}",
        file_only=True,
    )
    body_unsigned: bool = setting(
        values.boolean,
        False,
        "that nothing proves the body, written out; then each signature is good for one body",
        file_only=True,
    )
    body_hash_query: str | None = setting(
        text,
        None,
        "the parameter of the URL with the body's SHA-256",
        example="bodySHA256",
        file_only=True,
    )
    time: str | None = setting(
        text,
        None,
        "the header, or `json:a.b`, that says when it was signed",
        unset="beside the signature, or nowhere",
        example="X-Timestamp",
        file_only=True,
    )
    time_unit: str = setting(
        one_of("s", "ms", "iso"), "s", "seconds, milliseconds or ISO 8601", file_only=True
    )
    tolerance_seconds: float | None = setting(
        number(1, 30 * DAY),
        None,
        "older signatures are refused, and those from the future",
        unset="their age does not count",
        example=300,
        file_only=True,
    )
    secrets: tuple[Secret, ...] = setting(
        many(values.secret),
        (),
        "what proves the provider; all are accepted, for rotation; `user:password` for `basic`",
        unset="none, and everything is answered `later_status`",
        example=["the provider's secret"],
        secret=True,
    )
    secret_encoding: str | None = setting(
        one_of("text", "base64", "hex", "pem"),
        None,
        "how they are written",
        unset="`base64` for `standard-webhooks`, `ed25519`, `ecdsa-p256`, else `text`",
        example="text",
        file_only=True,
    )
    secret_prefix: str | None = setting(
        text,
        None,
        "what stands before them and is cut off",
        unset="`whsec_` for `standard-webhooks`",
        example="whsec_",
        file_only=True,
    )
    token: str | None = setting(
        values.matching(
            r"(?:header|query):[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}", "give header:X or query:k"
        ),
        None,
        'where the token of `verify = "token"` stands',
        example="header:X-Token",
        file_only=True,
    )
    jwt_header: str = setting(text, "Authorization", "the header with the token", file_only=True)
    jwt_algorithms: tuple[str, ...] = setting(
        many(exactly(*JWT_ALGORITHMS)),
        ("HS256",),
        "the algorithms that are accepted, whatever the token says",
        file_only=True,
    )
    jwt_issuer: str | None = setting(
        text, None, "what `iss` must be", unset="anything", example="Vonage", file_only=True
    )
    jwt_body_claim: str | None = setting(
        text,
        None,
        "the claim with the SHA-256 of the body",
        example="payload_hash",
        file_only=True,
    )
    jwt_url_claim: str | None = setting(
        text, None, "the claim with the SHA-256 of the URL", example="url_hash", file_only=True
    )
    jwt_check_iat: bool = setting(values.boolean, True, "whether its age counts", file_only=True)
    allowed_ips: tuple[Network, ...] | None = setting(
        many(network),
        None,
        "addresses or networks it may come from, besides any proof",
        unset="anywhere",
        example=["203.0.113.0/24"],
    )
    body: str = setting(
        one_of("json", "form", "query"), "json", "what the body is, or the URL", file_only=True
    )
    methods: tuple[str, ...] = setting(
        many(exactly("POST", "GET", "PUT")), ("POST",), "the methods it comes by", file_only=True
    )
    handshake: Handshake | None = setting(
        handshake,
        None,
        "a question that the provider asks before it sends anything, and its answer",
        example={
            "when": "query:hub.mode=subscribe",
            "check": "query:hub.verify_token",
            "reply": "query:hub.challenge",
        },
        file_only=True,
    )
    handshake_secrets: tuple[Secret, ...] = setting(
        many(values.secret),
        (),
        "what `check` is held against",
        unset="none",
        example=["the verify token"],
        secret=True,
    )
    answer: FixedAnswer = setting(
        fixed_answer,
        FixedAnswer(),
        "what a delivery is answered once it is on disk",
        file_only=True,
    )
    rejected_status: int | None = setting(
        STATUS,
        None,
        "the answer to what is verified and cannot be read; it is kept all the same",
        unset="that of `answer`, because providers repeat or give up over a 400",
        example=400,
        file_only=True,
    )
    event: tuple[Block, ...] = setting(
        blocks, (), "blocks that say what an event is", unset="must be set", file_only=True
    )
    ignore: tuple[Condition, ...] = setting(
        conditions,
        (),
        "what is verified, answered, counted and not kept",
        example="data.event_type=message.sent",
        file_only=True,
    )
    reconcile: Listing | None = setting(
        listing,
        None,
        "how its provider is asked what it holds, by `reconcile`; each of its keys wins over the "
        "preset's",
        unset="the preset's, if any",
        example={
            "url": "https://api.example.com/v1/messages?since={since}&until={until}",
            "auth": "Authorization: Bearer {secret}",
            "items": "data",
            "time": "created_at",
            "time_unit": "iso",
            "paging": {"link": "links.next"},
        },
        file_only=True,
        by_key=True,
    )
    reconcile_secret: Secret | None = setting(
        values.secret,
        None,
        "what stands at `{secret}` of its `auth`; `user:password` for `basic`",
        unset="none, and it cannot be asked if it has an `auth`",
        example="your API key",
        secret=True,
    )
    reconcile_values: Mapping[str, str] = setting(
        given_values,
        {},
        "what stands at other places of its `url`, such as `{region}`",
        unset="none",
        example={"region": "eu"},
        file_only=True,
    )

    @property
    def media_type(self) -> str:
        """The media type of its bodies."""
        return URLENCODED if self.body == "form" else JSON

    @property
    def secret_parameter(self) -> str | None:
        """The parameter of the URL that holds the secret, or None."""
        where, _, name = (self.token or "").partition(":")
        return name if where == "query" else None

    @property
    def keys(self) -> list[bytes]:
        """The secrets as bytes.

        Raises:
            UnusableKey: one is empty, a public key, or not in `secret_encoding`.
        """
        keys = [self._key(one.reveal()) for one in self.secrets]
        shared = self.verify not in {"ed25519", "ecdsa-p256"}
        if not all(keys) or (shared and any(key.startswith(PEM) for key in keys)):
            raise UnusableKey("hold an empty text or a published key, which is no secret")
        if self.verify == "basic" and not all(key.partition(b":")[2] for key in keys):
            raise UnusableKey("hold one that is not user:password")
        return keys

    @property
    def covers(self) -> bool:
        """Whether the proof covers the part that is read."""
        match self.verify:
            case "jwt":
                claim = self.jwt_url_claim if self.body == "query" else self.jwt_body_claim
                return claim is not None
            case "standard-webhooks":
                return self.body != "query"
            case _ if self.signed is None:
                return True
        by_hash = self.body_hash_query is not None and self.signed.covers_query
        return self.signed.covers(self.body) or (by_hash and self.body != "query")

    def _key(self, secret: str) -> bytes:
        standard = self.verify == "standard-webhooks"
        secret = secret.removeprefix(self.secret_prefix or ("whsec_" if standard else ""))
        binary = standard or self.verify in {"ed25519", "ecdsa-p256"}
        return decoded(secret, self.secret_encoding or ("base64" if binary else "text"))

    @property
    def signs_questions(self) -> bool:
        """Whether unproven handshakes get a MAC by a key that also proves deliveries."""
        asked = self.handshake
        if asked is None or asked.is_in_body or not asked.macs:
            return False
        return not self.handshake_secrets or any(
            one.reveal() in {secret.reveal() for secret in self.secrets}
            for one in self.handshake_secrets
        )

    @property
    def agents(self) -> frozenset[AgentName]:
        """The agents of the channel and of its blocks."""
        return frozenset({self.agent, *(block.agent for block in self.event if block.agent)})

    @property
    def missing_to_ask(self) -> list[str]:
        """The settings without which the provider cannot be asked."""
        if self.reconcile is None:
            return ["reconcile"]
        return self.reconcile.missing(self.reconcile_secret, self.reconcile_values)

    def proof(self) -> Proof:
        """Return the declared proof.

        Raises:
            UnusableKey: a secret is invalid.
            ValueError: a setting is missing.
        """
        keys = self.keys
        match self.verify:
            case "standard-webhooks":
                tolerance = self.tolerance_seconds or _STANDARD_TOLERANCE
                return StandardWebhooksProof(MacKeys("sha256", keys), Clock(None, "s", tolerance))
            case "jwt":
                return JwtProof(
                    keys,
                    self.jwt_header,
                    self.jwt_algorithms,
                    self.jwt_issuer,
                    self.jwt_body_claim,
                    self.jwt_url_claim,
                    self.jwt_check_iat,
                    self.tolerance_seconds or _STANDARD_TOLERANCE,
                    self.covers,
                )
            case "basic":
                return BasicProof(keys)
            case "token":
                return TokenProof(keys, self.token or "")
            case "address":
                return AddressProof()
        if self.signature is None or self.signed is None:
            raise ValueError("signature and signed must be set")
        return SignatureProof(
            self.signature,
            self.signed,
            Clock(self.time, self.time_unit, self.tolerance_seconds),
            self._signing_keys(keys),
            self.covers,
            self.body_hash_query,
        )

    def _signing_keys(self, keys: Sequence[bytes]) -> Keys:
        match self.verify:
            case "ed25519":
                return Ed25519Keys(keys)
            case "ecdsa-p256":
                return EcdsaKeys(keys)
            case _:
                return MacKeys(HASHES[self.verify or ""], keys)

    def errors(self) -> Iterator[Finding]:
        """Yield missing and contradictory settings of the declaration."""
        found = list(contradictions(self))
        for field, what, fix in found:
            yield wrong(f"channels.{self.name}.{field}", what, fix)
        if not found:
            try:
                proof = self.proof()
            except UnusableKey as error:
                fix = f'verify = "{self.verify}": see docs/declaring-a-channel.md'
                yield wrong(f"channels.{self.name}.secrets", str(error), fix)
            else:
                for field, what, fix in of_asking(self, proof):
                    yield wrong(f"channels.{self.name}.{field}", what, fix)

    def warnings(self, came_from: Mapping[str, str]) -> Iterator[Finding]:
        """Yield what the provider cannot be asked without, if the file says how it is asked."""
        if self.reconcile is not None and not came_from["reconcile"].startswith("preset "):
            for key in (f"channels.{self.name}.{one}" for one in self.missing_to_ask):
                yield warning(
                    key,
                    "not set, so what never arrived cannot be asked for",
                    f"set {key}: docs/declaring-a-channel.md",
                )
