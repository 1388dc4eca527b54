"""Deliveries of many events: a channel whose body is a JSON list of messages."""

from __future__ import annotations

import json
from collections.abc import Callable

from berinia_webhookd.errors import MalformedDelivery
from berinia_webhookd.model import ChannelName, Decoded, RejectedItem, VerifiedDelivery

from .world import START, an_event

CHAT = ChannelName("chat")


def a_batch(*items: object) -> VerifiedDelivery:
    """A delivery of these items; a message is `{"from": …, "text": …}`."""
    body = json.dumps({"of": "somebody", "entry": [{"messages": items}]})
    return VerifiedDelivery(
        channel=CHAT,
        content_type_header="application/json",
        body=body.encode(),
        received_at=START,
        target="/webhook/chat",
        headers={"x-kind": "batch"},
    )


def message(sender: str, text: str) -> dict[str, str]:
    return {"from": sender, "text": text}


def reading(*fields: str) -> Callable[[VerifiedDelivery], Decoded]:
    """What a channel does that finds the text in any of these fields."""

    def decode(delivery: VerifiedDelivery) -> Decoded:
        events, rejected = [], []
        try:
            entries = json.loads(delivery.body)["entry"]
        except ValueError as error:
            raise MalformedDelivery("no JSON") from error
        for number, entry in enumerate(entries):
            for index, item in enumerate(entry["messages"]):
                text = next((item[field] for field in fields if field in item), None)
                if text is None:
                    path = f"entry.{number}.messages.{index}"
                    rejected.append(RejectedItem(path, "no text"))
                else:
                    events.append(an_event(text, sender=item["from"], channel=delivery.channel))
        return Decoded(tuple(events), tuple(rejected))

    return decode


decode = reading("text")
decode_more = reading("text", "txt")
