"""Where settings come from, highest first: flag, environment, `.env` in the working folder, systemd
credential, TOML file. It gathers raw values with their origin and refuses files that others may
write; what the values mean is `load.py`'s business.
"""

from __future__ import annotations

import difflib
import io
import os
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from dotenv import dotenv_values

from berinia_webhookd.config.keys import AGENT_KEYS, BY_NAME, ENVIRONMENT_PREFIX, KEYS, Environ, Key
from berinia_webhookd.findings import Finding, wrong

Source = Literal["flag", "environment", ".env", "credential", "file", "default"]

SYSTEM_FILE: Final = Path("/etc/berinia-webhookd/config.toml")
LOCAL_FILE: Final = "berinia-webhookd.toml"
CONFIG_VARIABLE: Final = ENVIRONMENT_PREFIX + "CONFIG"
LARGEST_FILE_BYTES: Final = 1024 * 1024
FOLDER_VARIABLES: Final = (
    "STATE_DIRECTORY",
    "LOGS_DIRECTORY",
    "RUNTIME_DIRECTORY",
    "CREDENTIALS_DIRECTORY",
    "HOME",
)
GROUPS: Final = "channels.whatsapp.groups"
_OF_FLAGS: Final = {key.variable: key for key in KEYS if key.flag_only}
WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class Given:
    """A raw value and where it stands."""

    raw: Any
    source: Source
    where: str  # the flag, variable or file


@dataclass(frozen=True, slots=True)
class Layer:
    """What one source gives, by key; agents' tables are keyed `agents.<Name>.<key>`."""

    source: Source
    given: Mapping[str, Given]


@dataclass(frozen=True, slots=True)
class Gathered:
    """All layers, highest first, what was wrong with them, and the file that was read."""

    layers: tuple[Layer, ...]
    problems: tuple[Finding, ...]
    config_file: Path | None
    complete: bool  # whether the file and .env, where they are, could be read


def readable(environ: Environ, problems: list[Finding]) -> Environ:
    """The environment without values of ours that are no text: nothing can be named by them."""
    names = {*FOLDER_VARIABLES, *(name for key in KEYS for name in key.legacy)}
    broken = {
        name
        for name, value in environ.items()
        if (name in names or name.startswith(ENVIRONMENT_PREFIX)) and not _is_text(value)
    }
    hint = "set it to UTF-8 text, or unset it"
    problems.extend(wrong(name, "is not UTF-8 text", hint) for name in sorted(broken))
    return {name: value for name, value in environ.items() if name not in broken}


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def gather(
    flags: Mapping[str, Any],
    *,
    environ: Environ,
    working_folder: Path,
    config_file: Path | None,
) -> Gathered:
    """Read every source; nothing here raises for what is in them."""
    problems: list[Finding] = []
    dotenv = _dotenv(working_folder / ".env", problems)
    file = _which_file(environ, working_folder, config_file)
    table = _toml(file, problems) if file else {}
    complete = dotenv is not None and table is not None
    layers: tuple[Layer, ...] = (
        Layer("flag", {key: Given(raw, "flag", _flag(key)) for key, raw in flags.items()}),
        Layer("environment", dict(_variables(environ, "environment", problems))),
        Layer(".env", dict(_variables(dotenv or {}, ".env", problems))),
        Layer("credential", dict(_credentials(environ, problems))),
        Layer("file", dict(_flattened(table or {}, str(file.path) if file else "", problems))),
    )
    layers = _signing_key_wins(layers)
    return Gathered(layers, tuple(problems), file.path if file else None, complete)


def _flag(key: str) -> str:
    return "--" + key.rpartition(".")[2].replace("_", "-")


def _signing_key_wins(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """MAILGUN_SIGNING_KEY is the better name for the same thing: it wins wherever it stands."""
    key = "channels.email.signing_keys"
    given = [layer.given[key].where for layer in layers if key in layer.given]
    if "MAILGUN_SIGNING_KEY" not in given:
        return layers
    return tuple(
        Layer(
            layer.source,
            {
                name: value
                for name, value in layer.given.items()
                if (name, value.where) != (key, "MAILGUN_API_KEY")
            },
        )
        for layer in layers
    )


def _variables(
    variables: Mapping[str, str], source: Source, problems: list[Finding]
) -> Iterator[tuple[str, Given]]:
    """Ours by their prefix, and the names of the older installation; empty ones count as unset."""
    ours = {key.variable: key for key in KEYS if not key.flag_only}
    for key in KEYS:
        for name in reversed(key.legacy):
            if variables.get(name):
                yield key.name, Given(variables[name], source, name)
    for name, value in variables.items():
        if not name.startswith(ENVIRONMENT_PREFIX) or name == CONFIG_VARIABLE:
            continue
        if name in _OF_FLAGS:
            problems.append(_flag_only(_OF_FLAGS[name], name, f"in the {source}"))
        elif name not in ours:
            problems.append(_unknown(name, ours, f"in the {source}"))
        elif value and ours[name].name != GROUPS:
            yield ours[name].name, Given(value, source, name)
        elif value:
            hint = f"write a table [{GROUPS}] in the TOML file"
            problems.append(wrong(name, "groups cannot be set in the environment", hint))


def _credentials(environ: Environ, problems: list[Finding]) -> Iterator[tuple[str, Given]]:
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return
    for key in KEYS:
        path = Path(directory) / key.name
        if not key.flag_only and _is_there(path):
            text = _text(path, key.name, problems)
            if text is not None and text.strip():
                yield key.name, Given(text.strip(), "credential", str(path))


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    named: bool  # by the operator: it must exist, and may lie anywhere
    found_here: bool  # in the working folder: others must not be able to write it


def _which_file(environ: Environ, working_folder: Path, config_file: Path | None) -> _File | None:
    if config_file is not None:
        return _File(config_file, named=True, found_here=False)
    if variable := environ.get(CONFIG_VARIABLE):
        return _File(Path(variable), named=True, found_here=False)
    if _is_there(SYSTEM_FILE):
        return _File(SYSTEM_FILE, named=False, found_here=False)
    if _is_there(working_folder / LOCAL_FILE):
        return _File(working_folder / LOCAL_FILE, named=False, found_here=True)
    return None


def _is_there(path: Path) -> bool:
    """Also where it cannot be looked at: reading it then says why, and nothing is passed over."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError:
        return False


def _toml(file: _File, problems: list[Finding]) -> Mapping[str, Any] | None:
    text = _text(file.path, str(file.path), problems, only_ours=file.found_here)
    if text is None:
        return None
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        hint = "mend the TOML there; see contrib/config/berinia-webhookd.toml"
        # The error quotes at most one character of the file.
        problems.append(wrong(str(file.path), f"is not valid TOML: {error}"[:300], hint))
        return None


def _dotenv(path: Path, problems: list[Finding]) -> Mapping[str, str] | None:
    if not _is_there(path) or _is_folder(path):  # some name their virtual environment so
        return {}
    text = _text(path, str(path), problems, only_ours=True)
    if text is None:
        return None
    read = dotenv_values(stream=io.StringIO(text), interpolate=False)
    return {name: value for name, value in read.items() if value is not None}


def _text(
    path: Path, setting: str, problems: list[Finding], *, only_ours: bool = False
) -> str | None:
    """A file's text, looked at through one open descriptor; None when it cannot be used."""
    opener = _at_once if only_ours else None
    try:
        with open(path, "rb", opener=opener) as file:
            found = os.fstat(file.fileno())
            if only_ours and (refusal := _not_ours(found)):
                hint = f"chown it to root or yourself and chmod go-w {path}"
                if not stat.S_ISREG(found.st_mode):
                    hint = f"put a file in the place of {path}"
                problems.append(wrong(setting, refusal, hint))
                return None
            content = file.read(LARGEST_FILE_BYTES + 1)
    except OSError as error:
        hint = "name a file that this user can read"
        if only_ours and not os.access(path.parent, os.X_OK):
            hint = "go to a folder that this user may enter, for example: cd /"
        problems.append(wrong(setting, f"cannot be read: {error.strerror}", hint))
        return None
    if len(content) > LARGEST_FILE_BYTES:
        problems.append(wrong(setting, "is larger than 1 MiB", "that is no settings file"))
        return None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        problems.append(wrong(setting, "is not UTF-8 text", "save it as UTF-8"))
        return None


def _at_once(path: str, flags: int) -> int:
    """Opening a pipe that nobody writes to would wait for ever; the operator may name one."""
    return os.open(path, flags | os.O_NONBLOCK)


def _not_ours(found: os.stat_result) -> str | None:
    if not stat.S_ISREG(found.st_mode):
        return "is no ordinary file, so it is not read"
    if found.st_uid not in (0, os.getuid()):
        return "belongs to another user, so it is not read"
    if found.st_mode & WRITABLE_BY_OTHERS:
        return "can be written by others, so it is not read"
    return None


def _flattened(
    table: Mapping[str, Any], where: str, problems: list[Finding]
) -> Iterator[tuple[str, Given]]:
    known_agent_keys = [key.name for key in AGENT_KEYS]

    def walk(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in values.items():
            full = prefix + name
            of_agent = prefix == "agents." and full not in BY_NAME
            if isinstance(value, Mapping) and of_agent:
                for key, inner in value.items():
                    if key in known_agent_keys:
                        yield f"{full}.{key}", inner
                    else:
                        full_names = [f"{full}.{known}" for known in known_agent_keys]
                        problems.append(_unknown(f"{full}.{key}", full_names, f"in {where}"))
            elif isinstance(value, Mapping) and full != GROUPS:
                yield from walk(value, full + ".")
            elif full not in BY_NAME:
                names = (name for name, key in BY_NAME.items() if not key.flag_only)
                problems.append(_unknown(full, names, f"in {where}"))
            elif BY_NAME[full].flag_only:
                problems.append(_flag_only(BY_NAME[full], full, f"in {where}"))
            else:
                yield full, value

    for key, value in walk(table, ""):
        yield key, Given(value, "file", where)


def _flag_only(key: Key, name: str, where: str) -> Finding:
    hint = f"only as a flag: --{key.name.rpartition('.')[2]}"
    if key.legacy:
        hint += f", or {key.legacy[0]}=1 in the environment or .env"
    return wrong(name, f"cannot be set {where}", hint)


def _unknown(name: str, known: Iterable[str], where: str) -> Finding:
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}?" if nearest else "see contrib/config/berinia-webhookd.toml"
    return wrong(name, f"unknown setting {where}", hint)
