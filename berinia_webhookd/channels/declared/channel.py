"""A channel that is declared in the file: proof, events, handshake and answers from its settings.

Each key is documented in docs/declaring-a-channel.md. The schemes are the `…_proof.py` files, paths
to values are in `fields.py`, and events are read in `reading.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final
from urllib.parse import unquote_plus

from berinia_webhookd.addresses import require_allowed
from berinia_webhookd.channels.addresses_of_people import event_digest
from berinia_webhookd.channels.contract import Answer, Channel, SignedRequest
from berinia_webhookd.channels.declared.presets import provider_of
from berinia_webhookd.channels.declared.proof import NoProof, Proof
from berinia_webhookd.channels.declared.reading import Reader
from berinia_webhookd.channels.declared.request import Request
from berinia_webhookd.channels.declared.sample import names_of, signed_sample
from berinia_webhookd.channels.declared.settings import DeclaredSettings
from berinia_webhookd.channels.provider import Provider
from berinia_webhookd.channels.twilio_boundaries import require_apart
from berinia_webhookd.config.agent_settings import SAMPLES
from berinia_webhookd.config.channel_settings import ChannelSettings
from berinia_webhookd.errors import CannotSign, ChannelNotConfigured, SignatureInvalid
from berinia_webhookd.model import (
    ChannelName,
    Decoded,
    Event,
    EventMark,
    RawDelivery,
    Receipts,
    VerifiedDelivery,
)

# Stored with the headers of a sample delivery, so that it is still recognised as a sample when it
# is read again; no request can have a header of this name.
SAMPLE: Final = ":sample"
_TO_AGENT: Final = "to its agent"
_TO_LOG: Final = "to the log"


class DeclaredChannel(Channel):
    """A channel of kind `declared`."""

    kind = "declared"
    provider = provider_of(None, ChannelName("declared"))

    def __init__(
        self,
        settings: DeclaredSettings,
        public_urls: Sequence[str] = (),
        *,
        sample_secret: bytes | None = None,
    ) -> None:
        """`sample_secret` is the private key of our own pair, for channels with a key pair."""
        self.provider = self.provider_of(settings)  # type: ignore[misc] # each has its own
        super().__init__(settings, public_urls)
        self.settings = settings
        self._public_urls = public_urls
        self._proof: Proof = NoProof()
        with contextlib.suppress(ValueError):  # also for a declaration that is refused
            self._proof = settings.proof()
        if self._proof.pair is not None:
            self.can_sign = sample_secret is not None
            self.agents |= {SAMPLES}
        self._sample_secret = sample_secret
        self._handshake_keys = [one.reveal().encode() for one in settings.handshake_secrets]
        asked = settings.handshake is not None and not settings.handshake.is_in_body
        self.methods = frozenset(settings.methods) | ({"GET"} if asked else set())
        self.media_types = frozenset({settings.media_type})  # type: ignore[misc]
        self.allowed_networks = settings.allowed_ips
        self.address_is_proof = settings.verify == "address"
        read = [block.headers for block in settings.event]
        self.kept_headers = frozenset().union(
            *read, *(one.field.headers for one in settings.ignore)
        )
        # The MAC of a handshake's answer is over a text that cannot be a JSON object or list.
        self._signs_questions = settings.signs_questions
        self._reader = Reader(settings, self._proof)
        self.secret_parameter = settings.secret_parameter
        self.sample_names = names_of(settings)

    @classmethod
    def provider_of(cls, settings: ChannelSettings) -> Provider:
        """Return the provider facts of its preset, or the default ones."""
        preset = settings.preset if isinstance(settings, DeclaredSettings) else None
        return provider_of(preset, settings.name)

    def require_secret(self) -> None:
        """Raise `ChannelNotConfigured` while no secret is set."""
        if not self.settings.secrets and self.settings.verify != "address":
            raise ChannelNotConfigured(
                f"This channel has no secret yet: set channels.{self.name}.secrets."
            )

    def handshake(self, delivery: RawDelivery) -> Answer | None:
        """See `Channel.handshake`; one in a body must pass the channel's proof first."""
        declared = self.settings.handshake
        if declared is None:
            return None
        request = Request(delivery, self._public_urls)
        if not declared.may_ask(request):
            return None
        if declared.is_in_body:
            self._prove(request, self._proof)
        if not declared.asks(request):
            return None
        if not declared.checks(request, self._handshake_keys):
            raise SignatureInvalid("The verify token is missing or wrong.")
        answer = declared.answer(request, self._handshake_keys or self.settings.keys)
        if answer is None:
            raise SignatureInvalid("The question has nothing that can be answered.")
        return Answer(200, *answer)

    def verify(self, delivery: RawDelivery) -> VerifiedDelivery:
        """Verify a request by the declared proof."""
        self.require_secret()
        if delivery.method not in self.settings.methods:
            raise SignatureInvalid("This method is for the provider's question alone.")
        key = None if self._proof.pair is None else delivery.sample_key
        try:
            proof = self._proof if key is None else self._proof.by(key.public)
        except ValueError as error:
            raise SignatureInvalid("The key of the sample is none.") from error
        replay_key = self._prove(Request(delivery, self._public_urls), proof)
        if self.secret_parameter is not None:
            delivery = delivery._replace(target=self._without_secret(delivery.target))
        if self.settings.body == "query":  # the body is neither read nor covered by the proof
            delivery = delivery._replace(body=b"")
        verified = self._verified(delivery, replay_key=replay_key)
        if key is None:
            return verified
        where = {SAMPLE: _TO_AGENT if key.to_agent else _TO_LOG}
        return verified._replace(headers={**verified.headers, **where})

    def _without_secret(self, target: str) -> str:
        """Return a request target as it may be stored and shown."""
        path, mark, query = target.partition("?")
        if self.secret_parameter is None or not mark:
            return target
        shown = [
            f"{name}=***" if unquote_plus(name) == self.secret_parameter else pair
            for pair in query.split("&")
            for name in (pair.partition("=")[0],)
        ]
        return path + mark + "&".join(shown)

    def _prove(self, request: Request, proof: Proof) -> bytes | None:
        if self.allowed_networks is not None:
            refusal = "This address is not allowed."
            require_allowed(self.allowed_networks, request.delivery.caller, refusal)
        if self._signs_questions and request.body.lstrip()[:1] not in (b"{", b"["):
            raise SignatureInvalid("What this channel answers questions with could have signed it.")
        replay_key = proof.prove(request)
        if self._reader.recognised_by is not None:
            require_apart(request.fields, self._reader.recognised_by)
        return replay_key

    def decode(self, delivery: VerifiedDelivery) -> Decoded:
        """See `Channel.decode`; a delivery proved by a sample's key is read as a sample."""
        decoded = super().decode(delivery)
        where = delivery.headers.get(SAMPLE)
        if where is None:
            return decoded
        events = (_sample(event, to_agent=where == _TO_AGENT) for event in decoded.events)
        return decoded._replace(events=tuple(events))

    def read(self, delivery: VerifiedDelivery) -> Decoded:
        """Read all events by the blocks; items that match no block are kept as rejected."""
        return self._reader.read(delivery)

    def unmet(self, delivery: VerifiedDelivery) -> list[str]:
        """Describe which condition of which block a delivery does not meet.

        Raises:
            MalformedDelivery: its body cannot be read at all.
        """
        return self._reader.unmet(delivery)

    def is_empty(self, event: Event) -> bool:
        """Whether an event has no content, as marked by `read`, which knows of files elsewhere."""
        return EventMark.EMPTY in event.marks

    def answer(self, receipts: Receipts) -> Answer:
        """Return the declared answer, the same for every delivery."""
        del receipts
        fixed = self.settings.answer
        return Answer(fixed.status, fixed.content_type, fixed.body.encode())

    def rejected_answer(self) -> Answer | None:
        """Return the answer to an undecodable delivery; by default it has no error status."""
        status = self.settings.rejected_status
        return self.answer(()) if status is None else Answer(status, "text/plain", b"")

    def resembles_provider(self, delivery: RawDelivery) -> bool:
        """Whether it has a signature, token or password of the declared shape."""
        return self._proof.is_shaped(Request(delivery, self._public_urls))

    def for_samples(self) -> tuple[Channel, bytes]:
        """See `Channel.for_samples`."""
        pair = self._proof.pair
        if pair is None:
            return super().for_samples()
        secret = pair.new_secret()
        signing = DeclaredChannel(self.settings, self._public_urls, sample_secret=secret)
        return signing, pair.public_of(secret)

    def sign(
        self, fields: Mapping[str, str], *, base_url: str, now: datetime, valid: bool = True
    ) -> SignedRequest:
        """Return a sample of the first block, with the given fields replaced.

        Raises:
            CannotSign: only the provider has the key.
        """
        if valid and not self.can_sign:
            raise CannotSign(
                f"A sample for {self.name} cannot be signed: only the provider has the key.",
                hint=f"berinia-webhookd send {self.name} makes a key pair of its own, here",
            )
        ours = self._sample_secret or next(iter(self.settings.keys), None)
        secret = ours if valid and ours else self._proof.new_secret()
        return signed_sample(
            self.settings, self._proof, fields, secret=secret, base_url=base_url, now=now
        )


def _sample(event: Event, *, to_agent: bool) -> Event:
    """Return an event as a sample, with a digest of its own and without a receipt's rank."""
    return event._replace(
        sample=True,
        agent=event.agent if to_agent else SAMPLES,
        digest=event_digest(event.channel, SAMPLE, event.digest.hex()),
        about=None,
        rank=None,
    )
