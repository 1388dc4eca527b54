"""The type of a hash under way, for which `hashlib` has no public name."""

from __future__ import annotations

from typing import Protocol, Self


class Hash(Protocol):
    """What has been hashed so far."""

    @property
    def block_size(self) -> int:
        """In bytes."""

    def update(self, content: bytes, /) -> None:
        """Hash more."""

    def digest(self) -> bytes:
        """Return the digest of all so far."""

    def copy(self) -> Self:
        """Return one that goes on from here by itself."""
