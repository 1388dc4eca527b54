"""An agent with `async def handle`: asks a service, and answers into the WhatsApp chat.

    agents.path = "/opt/agents"
    agents.MetaAgent.target = "python:async_handle:Assistant"
    agents.MetaAgent.timeout_seconds = 20

All async agents of a host share one event loop that lasts as long as the host, so connections may
be kept in the instance. The class is built once in a host, without arguments. Its answer's
`response` is what the chat shows; a chat that waited too long gets it later, if
channels.whatsapp.late_reply_url is set.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

SERVICE = os.environ.get("ASSISTANT_ADDRESS", "127.0.0.1:9100")


class Assistant:
    def __init__(self) -> None:
        self.connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.turns: dict[str, int] = {}

    async def handle(self, event: dict[str, Any]) -> dict[str, Any]:
        data = event["data"]
        # The same text for every message of a conversation, whatever the spelling of its numbers.
        conversation = data["conversation"]
        self.turns[conversation] = self.turns.get(conversation, 0) + 1
        try:
            answer = await self.ask({"text": data["body"], "turn": self.turns[conversation]})
        except (OSError, asyncio.IncompleteReadError):
            self.connection = None
            if event["data"]["attempt"] == 1:
                # Nothing was done: it may run again, also where a message runs at most once.
                return {"status": "retry", "after_seconds": 2, "error": "the service is away"}
            return {"status": "error", "message": "Je ne peux pas répondre pour le moment."}
        return {"status": "success", "response": answer["text"]}

    async def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        if self.connection is None:
            host, _, port = SERVICE.rpartition(":")
            self.connection = await asyncio.open_connection(host, int(port))
        reader, writer = self.connection
        writer.write(json.dumps(question).encode() + b"\n")
        await writer.drain()
        answer: dict[str, Any] = json.loads(await reader.readuntil(b"\n"))
        return answer
