"""The opt-outs of erased people: the register keeps a digest of the address, keyed by a secret
outside the journal. If the person writes again, the address replaces the digest.
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
    """The key of one register. Its name identifies it without revealing it."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()
        self.name = self._mac("name")[:_NAME_CHARACTERS]

    @classmethod
    def of(cls, settings: Settings, state: Path, *, make: bool = False) -> Self | None:
        """Return the configured key, else, for a journal in a file, that of the state folder.

        Raises:
            OSError: it cannot be read or created. ValueError: the file holds no key, or others may
            read it.
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
        """Return the digest of an erased address, given in normal form."""
        return self._mac(f"address\0{address}")

    def _mac(self, text: str) -> str:
        return hmac.digest(self._secret, text.encode(), hashlib.sha256).hex()


async def require_fit(transaction: Transaction, key: ConsentsKey | None) -> None:
    """Check that this key made the existing digests.

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
    """Replace digests by addresses for erased people who have written again."""
    if key is None or not await transaction.execute("any_erased"):
        return
    for address in sorted(set(addresses)):
        digest = key.digest(address)
        await transaction.execute("recognise", address=address, digest=digest, key=key.name)


async def count(transaction: Transaction, key: ConsentsKey | None, sender: str) -> int:
    """Return on how many channels the register has a person, in normal form, perhaps erased.

    Raises:
        WebhookdError: there are rows, but no key.
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
    """Replace a person's address by its digest, unless events of the person remain. Returns on how
    many channels.
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
