"""The opt-outs of people who were erased: the register keeps a digest of the address, made with a
key that is no part of the journal. Once the person writes again, it is the address again.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

from berinia_webhookd import secret_files
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.errors import CannotStart, WebhookdError
from berinia_webhookd.journal.database import Transaction
from berinia_webhookd.journal.event_text import storable

FILE_NAME: Final = "consents.key"
_NAME_CHARACTERS: Final = 16


class ConsentsKey:
    """The key of one register. Its name tells it from others, and says nothing else of it."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()
        self.name = self._mac("name")[:_NAME_CHARACTERS]

    @classmethod
    def of(cls, settings: Settings, state: Path, *, make: bool = False) -> Self | None:
        """Return the key that is set, else, for a journal in a file, that of the state folder.

        Raises:
            OSError: it cannot be read, or made.
            ValueError: what lies there is no key, or others may read it.
        """
        if settings.consents.key is not None:
            return cls(settings.consents.key.reveal())
        if settings.journal.file is None:
            return None
        file = state / FILE_NAME
        return cls(secret_files.made(file) if make else secret_files.read(file))

    def reveal(self) -> str:
        """Return the key itself, for a backup."""
        return self._secret.decode()

    def digest(self, address: str) -> str:
        """Return what stands for an address, in normal form, that was erased."""
        return self._mac(f"address\0{address}")

    def _mac(self, text: str) -> str:
        return hmac.digest(self._secret, text.encode(), hashlib.sha256).hex()


async def require_fit(transaction: Transaction, key: ConsentsKey | None) -> None:
    """Check that this key made the digests that there are.

    Raises:
        CannotStart: it did not.
    """
    name = "" if key is None else key.name
    if await transaction.execute("erased_by_another", key=name):
        what = "is not set" if key is None else "is another one"
        raise CannotStart(
            f"consents.key {what}, and the journal holds opt-outs of erased people made with it",
            hint=f"set consents.key as it was, or put the file {FILE_NAME} of the backup back into "
            "the state folder",
        )


async def recognise(
    transaction: Transaction, key: ConsentsKey | None, addresses: Iterable[str]
) -> None:
    """Give those who were erased, and of whom there is something again, their addresses back."""
    if key is None or not await transaction.execute("any_erased"):
        return
    for address in sorted(set(addresses)):
        digest = key.digest(address)
        await transaction.execute("recognise", address=address, digest=digest, key=key.name)


async def count(transaction: Transaction, key: ConsentsKey | None, sender: str) -> int:
    """Return of how many channels the register names a person, in normal form, who may be erased.

    Raises:
        WebhookdError: it does, and there is no key.
    """
    ((total,),) = await transaction.execute("count_consents", address=storable(sender))
    if total and key is None:
        raise WebhookdError(
            "consents.key is not set, and this person's opt-out would be forgotten",
            hint="set it to what `openssl rand -hex 32` prints, the same on every node; on SQLite "
            "`serve` makes it when it starts",
        )
    return int(total)


async def erase(transaction: Transaction, key: ConsentsKey | None, sender: str) -> int:
    """Let a digest stand for a person's address, unless there is something of the person again.
    Returns on how many channels.
    """
    if transaction.shared:
        await transaction.execute("keep_conversations")
    address = storable(sender)
    total = await count(transaction, key, sender)
    if key is None or await transaction.execute("conversations_of_sender", sender=address):
        return 0
    await transaction.execute(
        "erase_consents", address=address, digest=key.digest(address), key=key.name
    )
    return total
