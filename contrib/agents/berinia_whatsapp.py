"""BerinIA's own handler of WhatsApp messages, with its second step: answers in MetaAgent's words.

    agents.path = "/srv/berinia/infra-ia"
    agents.MetaAgent.target = "python:berinia_whatsapp:handle"

Copy this file into `agents.path`. The settings that go with it are contrib/config/berinia.toml.
"""

from __future__ import annotations

from typing import Any

from webhook.whatsapp_webhook import handle_whatsapp_webhook  # type: ignore[import-not-found]


async def handle(event: dict[str, Any]) -> dict[str, Any] | None:
    if not event["data"]["body"].strip():
        return None  # a picture or a sticker: the handler would complain in the chat
    answer: dict[str, Any] = await handle_whatsapp_webhook(event["data"]["raw"])
    return {"status": "error", **answer} if "error" in answer else answer
