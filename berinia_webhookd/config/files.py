"""Reads the files that settings come from: the TOML file, `.env` and credentials.

No file can crash the program or hang it: only ordinary files are opened, what would keep a parser
busy for long is refused first, and every error is a finding that names the file.
"""

from __future__ import annotations

import io
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dotenv.parser import Binding, parse_stream

from berinia_webhookd.config.fields import ENVIRONMENT_PREFIX, Environ
from berinia_webhookd.errors import ConfigurationError, NotPermitted
from berinia_webhookd.findings import Finding, wrong

SYSTEM_FILE: Final = Path("/etc/berinia-webhookd/config.toml")
LOCAL_FILE: Final = "berinia-webhookd.toml"
CONFIG_VARIABLE: Final = ENVIRONMENT_PREFIX + "CONFIG"
LARGEST_FILE_BYTES: Final = 1024 * 1024
WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH
MOST_ENTRIES: Final = 1000  # in a table
LONGEST_NUMBER_BITS: Final = 64  # as TOML says
LONG_NUMBER: Final = f"a number has over {LONGEST_NUMBER_BITS} bits"

# The parsers take quadratic time for these: hours, for a file of a megabyte.
_STRINGS: Final = re.compile(r'"[^"\n]*"|\'[^\'\n]*\'')
_DEEP_KEY: Final = re.compile(r"(?<![\w\"-])(?:[\w\"-]++[ \t]*+\.[ \t]*+){20}")
_BLANKS: Final = re.compile(r"(?<![^\S\r\n])[^\S\r\n]{100}")


@dataclass(frozen=True, slots=True)
class UnreadLine:
    """A line of `.env` that sets nothing."""

    number: int  # of the line, or of the one that opens the quote around it
    text: str = field(repr=False)
    quoted: bool  # inside a quote, which may be intended


@dataclass(frozen=True, slots=True)
class Files:
    """The contents of the TOML file and `.env`, not yet interpreted."""

    table: Mapping[str, Any]
    dotenv: Mapping[str, str]
    unread: tuple[UnreadLine, ...]  # in `.env`
    config_file: Path | None
    dotenv_file: Path | None
    problems: tuple[Finding, ...]  # files that could not be read or parsed


def read_files(environ: Environ, working_folder: Path, config_file: Path | None) -> Files:
    """Read the TOML file and `.env`; errors in them are `problems`, and not raised."""
    problems: list[Finding] = []

    def content(of: Callable[[str, str], Any], path: Path, found_here: bool) -> Any:
        try:
            return of(text_of(path, str(path), only_ours=found_here), str(path))
        except ConfigurationError as error:
            problems.extend(error.findings)
            return None

    dotenv_file = _which_dotenv(working_folder)
    bindings = (content(_bindings, dotenv_file, True) if dotenv_file else None) or ()
    file, found_here = _which_file(environ, working_folder, config_file)
    table = content(_table, file, found_here) if file else None
    return Files(
        table=table or {},
        dotenv={one.key: one.value for one in bindings if one.key and one.value is not None},
        unread=tuple(_unread(bindings)),
        config_file=file,
        dotenv_file=dotenv_file,
        problems=tuple(problems),
    )


def text_of(path: Path, setting: str, *, only_ours: bool = False) -> str:
    """Return a file's text, checked and read through one descriptor.

    `only_ours` is for a file that was found, not named: somebody else could have put it there.

    Raises:
        NotPermitted: it is named, or the system's, and not for this user.
        ConfigurationError: it cannot be used.
    """
    try:
        content = read_ordinary(path, LARGEST_FILE_BYTES + 1, distrust if only_ours else None)
    except Unusable as error:
        raise _unusable(setting, f"{error}, so it is not read", error.fix) from error
    except OSError as error:
        if isinstance(error, PermissionError) and not only_ours:
            raise NotPermitted(path) from error
        hint = "name a file that this user can read"
        if only_ours and not os.access(path.parent, os.X_OK):
            hint = "go to a folder that this user may enter, for example: cd /"
        raise _unusable(setting, f"cannot be read: {error.strerror}", hint) from error
    if len(content) > LARGEST_FILE_BYTES:
        raise _unusable(setting, "is larger than 1 MiB", "give a settings file")
    try:
        return content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise _unusable(setting, "is not UTF-8 text", "save it as UTF-8") from error


class Unusable(Exception):
    """A file that must not be used, whatever is in it; the message says why."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


def read_ordinary(
    path: Path, most_bytes: int, refusal: Callable[[os.stat_result], str | None] | None
) -> bytes:
    """Return the first bytes of an ordinary file.

    Raises:
        Unusable: it is not an ordinary file, or `refusal` says why it must not be used.
        OSError: it cannot be read.
    """
    _require_ordinary(path.stat(), path)  # before opening it: to open a device may do something
    # If a pipe replaced it just now, opening it must not wait for a writer.
    with open(path, "rb", opener=_at_once) as file:
        found = os.fstat(file.fileno())
        _require_ordinary(found, path)
        if refusal is not None and (why := refusal(found)):
            raise Unusable(why, f"chown it to root or yourself and chmod go-w {path}")
        return file.read(most_bytes)


def distrust(found: os.stat_result, *, owner: int | None = None) -> str | None:
    """Return why a file or folder that was found, not named, is not trusted: neither root's, nor
    ours, nor `owner`'s, or others may write it.
    """
    if found.st_uid not in (0, os.getuid(), owner):
        return "belongs to another user"
    if found.st_mode & WRITABLE_BY_OTHERS:
        return "can be written by others"
    return None


def is_there(path: Path) -> bool:
    """Whether it exists, or may exist: then reading it says why that is not known."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _require_ordinary(found: os.stat_result, path: Path) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise Unusable("is a folder", f"put a file in the place of {path}")
    if not stat.S_ISREG(found.st_mode):
        raise Unusable("is no ordinary file", f"put a file in the place of {path}")


def _which_file(
    environ: Environ, working_folder: Path, config_file: Path | None
) -> tuple[Path | None, bool]:
    """Return the TOML file, and whether it was found in the working folder."""
    if named := config_file or environ.get(CONFIG_VARIABLE):
        return Path(named), False
    if is_there(SYSTEM_FILE):
        return SYSTEM_FILE, False
    local = working_folder / LOCAL_FILE
    return (local, True) if is_there(local) else (None, False)


def _which_dotenv(working_folder: Path) -> Path | None:
    file = working_folder / ".env"
    if not is_there(file) or os.path.isdir(file):  # noqa: PTH112 - that of Path may raise
        return None  # a virtual environment can have this name
    return file


def _table(text: str, name: str) -> Mapping[str, Any]:
    try:
        _require_short_keys(text)
        table = tomllib.loads(text)
        _require_wieldy(table)
    except tomllib.TOMLDecodeError as error:
        # The error quotes one character of the file at most.
        what = f"is not valid TOML: {error}"[:300]
    except RecursionError:
        what = "is not valid TOML for settings: nested too deeply"
    except (OverflowError, ValueError) as error:
        # `int` refuses numbers with too many digits.
        why = error if isinstance(error, OverflowError) else LONG_NUMBER
        what = f"is not valid TOML for settings: {why}"
    else:
        return table
    raise _unusable(name, what, "correct it")


def _require_short_keys(text: str) -> None:
    if _DEEP_KEY.search(_STRINGS.sub('""', text)):
        raise OverflowError("a key has over 20 parts")


def _require_wieldy(value: Any) -> None:
    """Raise `OverflowError` for values that take long to handle or to show."""
    if isinstance(value, int) and value.bit_length() > LONGEST_NUMBER_BITS:
        raise OverflowError(LONG_NUMBER)
    if isinstance(value, Mapping) and len(value) > MOST_ENTRIES:
        raise OverflowError(f"a table has over {MOST_ENTRIES} entries")
    if isinstance(value, Mapping | list):
        for inside in value.values() if isinstance(value, Mapping) else value:
            _require_wieldy(inside)


def _bindings(text: str, name: str) -> tuple[Binding, ...]:
    if _BLANKS.search(text):
        raise _unusable(name, "has a line with 100 blanks in a row", "remove them")
    return tuple(parse_stream(io.StringIO(text)))


def _unread(bindings: tuple[Binding, ...]) -> Iterator[UnreadLine]:
    for one in bindings:
        text = one.original.string.lstrip()
        blank_lines = one.original.string.removesuffix(text).count("\n")
        number = one.original.line + blank_lines
        if one.error or (one.key is not None and one.value is None):
            yield UnreadLine(number, text, quoted=False)
        else:
            for line in text.rstrip().splitlines()[1:]:
                yield UnreadLine(number, line, quoted=True)


def _unusable(setting: str, what: str, hint: str) -> ConfigurationError:
    return ConfigurationError((wrong(setting, what, hint),))
