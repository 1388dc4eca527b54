"""The files of the keys that `send` makes for its samples: what the daemon believes of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from berinia_webhookd.clock import now
from berinia_webhookd.errors import WebhookdError
from berinia_webhookd.model import ChannelName, SampleKey
from berinia_webhookd.sample_keys import SampleKeyFile, file_of, read

from .absent import needs_root

TELNYX, SENDGRID = ChannelName("telnyx"), ChannelName("sendgrid")
KEY: Final = SampleKey(b"k" * 32, to_agent=True)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A file as `send` writes it."""
    with SampleKeyFile(tmp_path, TELNYX, KEY) as file:
        file.renew(now())
        yield file_of(tmp_path, file.nonce)


def test_a_key_as_it_was_written(path: Path) -> None:
    """For its owner alone, and for its channel."""
    assert path.stat().st_mode & 0o777 == 0o600
    assert read(path, TELNYX, now()) == KEY


def renamed(path: Path, how: Callable[[Path, Path], None]) -> None:
    """Put something else in a key's place that leads to it."""
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    how(elsewhere, path)


def rewritten(path: Path, one: str, other: str) -> None:
    """Change a key's text."""
    path.write_text(path.read_text().replace(one, other))


FILES: Final[dict[str, Callable[[Path], None]]] = {
    "gone": lambda path: path.unlink(),
    "too old": lambda path: os.utime(path, (now().timestamp() - 61,) * 2),
    "from the future": lambda path: os.utime(path, (now().timestamp() + 100,) * 2),
    "for its group": lambda path: path.chmod(0o640),
    "for all": lambda path: path.chmod(0o604),
    "a link": lambda path: renamed(path, lambda there, here: here.symlink_to(there)),
    "a second name": lambda path: renamed(path, lambda there, here: here.hardlink_to(there)),
    "a pipe": lambda path: renamed(path, lambda _, here: os.mkfifo(here, 0o600)),
    "a folder": lambda path: renamed(path, lambda _, here: here.mkdir(0o600)),
    "no JSON": lambda path: rewritten(path, "{", "[" * 4000),
    "without a key": lambda path: rewritten(path, '"public"', '"x"'),
    "of another channel": lambda path: rewritten(path, TELNYX, SENDGRID),
}


@pytest.mark.parametrize("how", FILES)
def test_a_file_that_is_not_as_the_command_wrote_it(path: Path, how: str) -> None:
    """Holds no key."""
    FILES[how](path)
    assert read(path, TELNYX, now()) is None


@needs_root
def test_a_file_of_another_user(path: Path) -> None:
    """Holds no key, though it can be read."""
    os.chown(path, 65534, 65534)
    assert read(path, TELNYX, now()) is None


@needs_root
def test_root_writes_for_the_user_of_the_folder(tmp_path: Path) -> None:
    """Else the daemon could not read it."""
    os.chown(tmp_path, 65534, 65534)
    with SampleKeyFile(tmp_path, TELNYX, KEY) as file:
        file.renew(now())
        assert file_of(tmp_path, file.nonce).stat().st_uid == 65534


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """Is said, with what to do."""
    with SampleKeyFile(tmp_path / "no", TELNYX, KEY) as file, pytest.raises(WebhookdError) as error:
        file.renew(now())
    assert "sudo" in str(error.value.hint)


def test_the_end_of_the_command_is_that_of_its_key(tmp_path: Path) -> None:
    """And of those that commands left behind, older than a minute."""
    left, fresh = (file_of(tmp_path, name) for name in ("left", "fresh"))
    for file in (left, fresh):
        file.write_text("{}")
    os.utime(left, (now().timestamp() - 61,) * 2)
    with SampleKeyFile(tmp_path, TELNYX, KEY) as ours:
        ours.renew(now())
    assert list(tmp_path.iterdir()) == [fresh]
