"""The key pairs that `send` makes for samples of a channel whose provider alone has the key that
signs. Its public key lies in the runtime folder for as long as the command runs, for the daemon's
user alone; a file that was left behind is good for a minute. The secret one is in no file.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
import time
from datetime import datetime
from pathlib import Path
from typing import Final, Self

from berinia_webhookd.errors import WebhookdError
from berinia_webhookd.model import ChannelName, SampleKey

MAX_AGE_SECONDS: Final = 60.0
_PREFIX: Final = "sample-key-"
_RENEWED_SECONDS: Final = 20.0
_LONGEST: Final = 4096
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def file_of(folder: Path, nonce: str) -> Path:
    """Return where the key lies that a request's mark names."""
    return folder / f"{_PREFIX}{nonce}"


def read(file: Path, channel: ChannelName, now: datetime) -> SampleKey | None:
    """Return the key in a file; None where there is none for this channel, it is older than a
    minute, or could be another user's.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = os.fstat(descriptor)
        if not _is_ours(found) or abs(now.timestamp() - found.st_mtime) > MAX_AGE_SECONDS:
            return None
        text = os.read(descriptor, _LONGEST)
    finally:
        os.close(descriptor)
    try:
        match json.loads(text):
            case {"channel": str(name), "public": str(public), "to_agent": bool(to_agent)}:
                return SampleKey(bytes.fromhex(public), to_agent) if name == channel else None
    except (ValueError, RecursionError):
        pass
    return None


def _is_ours(found: os.stat_result) -> bool:
    alone = stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and not found.st_mode & _OTHERS
    return alone and found.st_uid in (0, os.geteuid())


class SampleKeyFile:
    """The file of one `send`, from the first sample until the end of `with`."""

    def __init__(self, folder: Path, channel: ChannelName, key: SampleKey) -> None:
        self.nonce = secrets.token_hex(16)
        self._file = file_of(folder, self.nonce)
        self._text = json.dumps({"channel": channel, **key._asdict(), "public": key.public.hex()})
        self._written: datetime | None = None

    def __enter__(self) -> Self:
        """Remove what a command left behind that was killed."""
        oldest = time.time() - MAX_AGE_SECONDS
        with contextlib.suppress(OSError):
            for file in self._file.parent.glob(f"{_PREFIX}*"):
                if file.lstat().st_mtime < oldest:
                    file.unlink()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # then it is good for a minute at the most
            self._file.unlink(missing_ok=True)

    def renew(self, now: datetime) -> None:
        """Write it anew before it grows too old.

        Raises:
            WebhookdError: this user may not.
        """
        age = None if self._written is None else (now - self._written).total_seconds()
        if age is not None and age < _RENEWED_SECONDS:
            return
        fresh = self._file.with_name(f"{self._file.name}.new")
        try:
            self._write(fresh)
            fresh.replace(self._file)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise WebhookdError(
                f"the key of the samples cannot be written in {self._file.parent}: "
                f"{error.strerror}",
                hint="call it as the daemon's user, or with sudo",
            ) from error
        self._written = now

    def _write(self, file: Path) -> None:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            if os.geteuid() == 0:  # the daemon, whose folder it is, reads it as another user
                owner = file.parent.stat()
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            stream.write(self._text)
