"""The lock of loopback: a file in the state folder that says why loopback addresses prove nothing
at present. `serve` writes it, `doctor` shows it, and both can remove it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from berinia_webhookd.clock import now

FILE_NAME: Final = "loopback.locked"
NGINX_LINE: Final = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"
_MOST_BYTES: Final = 4096


class Reason(StrEnum):
    """How a request from outside arrived that looked like one of this machine."""

    NOT_SENT = "without X-Forwarded-For"
    NOT_APPENDED = "with the caller's own X-Forwarded-For"

    @property
    def what(self) -> str:
        """Say what it means."""
        return f"requests from outside arrive {self}, so anybody passes for this machine"


@dataclass(frozen=True, slots=True)
class Locked:
    """Why and since when loopback addresses prove nothing."""

    since: str
    url: str
    reason: Reason


class LoopbackLock:
    """The file of one node."""

    def __init__(self, state: Path) -> None:
        self.file = state / FILE_NAME

    def read(self) -> Locked | None:
        """Return the lock, if there is one; a file that cannot be read is one."""
        try:
            with self.file.open("rb") as stream:
                found = json.loads(stream.read(_MOST_BYTES))
            return Locked(str(found["since"]), str(found["url"]), Reason(found["reason"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return Locked("", "server.public_url", Reason.NOT_SENT)

    def write(self, url: str, reason: Reason) -> None:
        """Write it; the time of an earlier one is kept.

        Raises:
            OSError: the folder cannot be written.
        """
        before = self.read()
        since = now().isoformat() if before is None else before.since
        fresh = self.file.with_name(f".{FILE_NAME}.{os.getpid()}")
        fresh.write_text(json.dumps({"since": since, "url": url, "reason": reason}))
        fresh.replace(self.file)

    def remove(self) -> bool:
        """Remove it; return whether there was one.

        Raises:
            OSError: this user may not.
        """
        try:
            self.file.unlink()
        except FileNotFoundError:
            return False
        return True
