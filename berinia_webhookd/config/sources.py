"""Sources of settings, highest first: flag, environment, `.env` in the working folder, systemd
credential, TOML file. It gathers raw values with their origin and refuses files that others may
write; what the values mean is `load.py`'s business.
"""

from __future__ import annotations

import difflib
import io
import os
import stat
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from dotenv import dotenv_values

from berinia_webhookd.config.fields import ENVIRONMENT_PREFIX, Environ, Setting, variable_of
from berinia_webhookd.errors import ConfigurationError
from berinia_webhookd.findings import Finding, wrong

SYSTEM_FILE: Final = Path("/etc/berinia-webhookd/config.toml")
LOCAL_FILE: Final = "berinia-webhookd.toml"
CONFIG_VARIABLE: Final = ENVIRONMENT_PREFIX + "CONFIG"
LARGEST_FILE_BYTES: Final = 1024 * 1024
FOLDERS: Final = ("STATE", "LOGS", "RUNTIME", "CREDENTIALS")
FOLDER_VARIABLES: Final = ("HOME", *(f"{name}_DIRECTORY" for name in FOLDERS))
SEE: Final = "see contrib/config/berinia-webhookd.toml"
WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


Source = Literal["flag", "environment", ".env", "credential", "file", "default"]
Keys = Mapping[str, Setting]


@dataclass(frozen=True, slots=True)
class Given:
    """A raw value and where it stands."""

    raw: Any
    source: Source
    where: str  # the flag, variable or file


Layer = Mapping[str, Given]  # what one source gives, by key


@dataclass(frozen=True, slots=True)
class Files:
    """What the TOML file and `.env` hold, whatever it means."""

    table: Mapping[str, Any]
    dotenv: Mapping[str, str]
    config_file: Path | None
    problems: tuple[Finding, ...]  # of the files themselves: nothing of such a file is known


def readable(environ: Environ) -> tuple[Environ, frozenset[str]]:
    """Return the environment without values that are no UTF-8 text, and the names of those."""
    broken = frozenset(
        name for name, value in environ.items() if value.encode(errors="replace").decode() != value
    )
    return {name: value for name, value in environ.items() if name not in broken}, broken


def read_files(environ: Environ, working_folder: Path, config_file: Path | None) -> Files:
    """Read the TOML file and `.env`; nothing here raises for what is in them."""
    problems: list[Finding] = []

    def content(of: Callable[[Path, bool], Mapping[str, Any]], path: Path, found_here: bool) -> Any:
        try:
            return of(path, found_here)
        except ConfigurationError as error:
            problems.extend(error.findings)
            return {}

    dotenv = content(_dotenv, working_folder / ".env", True)
    file, found_here = _which_file(environ, working_folder, config_file)
    table = content(_toml, file, found_here) if file else {}
    return Files(table, dotenv, file, tuple(problems))


def gather(
    flags: Mapping[str, Any],
    *,
    environ: Environ,
    broken: Collection[str],
    files: Files,
    keys: Keys,
    left_out: Collection[str],
    problems: list[Finding],
) -> list[Layer]:
    """Return what each source gives, the highest first.

    `broken` names the variables that are no text, `left_out` the tables that were refused already.
    """
    names = {*FOLDER_VARIABLES, *(name for setting in keys.values() for name in setting.legacy)}
    hint = "set it to UTF-8 text, or unset it"
    problems.extend(
        wrong(name, "is not UTF-8 text", hint)
        for name in sorted(broken)
        if name in names or name.startswith(ENVIRONMENT_PREFIX)
    )
    layers: list[Layer] = [
        {key: Given(raw, "flag", _flag(key)) for key, raw in flags.items()},
        dict(_variables(environ, "environment", keys, problems)),
        dict(_variables(files.dotenv, ".env", keys, problems)),
        dict(_credentials(environ, keys, problems)),
        dict(_of_file(files, keys, left_out, problems)),
    ]
    for key, setting in keys.items():
        _first_name_wins(layers, key, setting.legacy)
    return layers


def colliding(keys: Keys) -> Iterator[Finding]:
    """Yield a finding for each two settings that one environment variable would set."""
    seen: dict[str, str] = {}
    for key, setting in keys.items():
        other = seen.setdefault(variable_of(key), key)
        if other != key and _anywhere(setting) and _anywhere(keys[other]):
            hint = "give one of the two channels another name"
            yield wrong(key, f"has the same variable as {other}: {variable_of(key)}", hint)


def _flag(key: str) -> str:
    return "--" + key.rpartition(".")[2].replace("_", "-")


def _first_name_wins(layers: list[Layer], key: str, legacy: tuple[str, ...]) -> None:
    """Drop what later ones of several older names set, also in a higher source than the first."""
    given = {layer[key].where for layer in layers if key in layer}
    worse = legacy[1:] if legacy and legacy[0] in given else ()
    for number, layer in enumerate(layers):
        if key in layer and layer[key].where in worse:
            layers[number] = {name: value for name, value in layer.items() if name != key}


def _variables(
    variables: Mapping[str, str], source: Source, keys: Keys, problems: list[Finding]
) -> Iterator[tuple[str, Given]]:
    """Yield what variables set, by our prefix or an older name; an empty one counts as unset."""
    for key, setting in keys.items():
        for name in reversed(setting.legacy):
            if variables.get(name):
                yield key, Given(variables[name], source, name)
    ours = {variable_of(key): key for key in keys}
    for name, value in variables.items():
        if not name.startswith(ENVIRONMENT_PREFIX) or name == CONFIG_VARIABLE:
            continue
        if (found := ours.get(name)) is None:
            known = (one for one, of in ours.items() if _anywhere(keys[of]))
            problems.append(_unknown(name, known, f"in the {source}"))
        elif value and not _anywhere(keys[found]):
            problems.append(_misplaced(found, keys[found], name, f"in the {source}"))
        elif value:
            yield found, Given(value, source, name)


def _anywhere(setting: Setting) -> bool:
    return not setting.flag_only and not setting.file_only


def _credentials(
    environ: Environ, keys: Keys, problems: list[Finding]
) -> Iterator[tuple[str, Given]]:
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return
    for key, setting in keys.items():
        path = Path(directory) / key
        if setting.flag_only or not _is_there(path):
            continue
        try:
            text = _text(path, key).strip()
        except ConfigurationError as error:
            problems.extend(error.findings)
            continue
        if text and setting.file_only:
            problems.append(_misplaced(key, setting, key, "as a credential"))
        elif text:
            yield key, Given(text, "credential", str(path))


def _which_file(
    environ: Environ, working_folder: Path, config_file: Path | None
) -> tuple[Path | None, bool]:
    """Find the TOML file, and say whether it is in the working folder, where others may put one."""
    if named := config_file or environ.get(CONFIG_VARIABLE):
        return Path(named), False
    if _is_there(SYSTEM_FILE):
        return SYSTEM_FILE, False
    local = working_folder / LOCAL_FILE
    return (local, True) if _is_there(local) else (None, False)


def _is_there(path: Path) -> bool:
    """Whether it exists. If that cannot be known it does: reading it then says why."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _toml(path: Path, found_here: bool) -> Mapping[str, Any]:
    try:
        return tomllib.loads(_text(path, str(path), only_ours=found_here))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        # The error quotes at most one character of the file.
        raise _unusable(str(path), f"is not valid TOML: {error}"[:300], "correct it") from error


def _dotenv(path: Path, found_here: bool) -> Mapping[str, str]:
    if not _is_there(path) or os.path.isdir(path):  # noqa: PTH112 - that of Path may raise
        return {}  # some name their virtual environment so
    text = _text(path, str(path), only_ours=found_here)
    read = dotenv_values(stream=io.StringIO(text), interpolate=False)
    return {name: value for name, value in read.items() if value is not None}


def _text(path: Path, setting: str, *, only_ours: bool = False) -> str:
    """Return a file's text, checked and read through one descriptor.

    Raises:
        ConfigurationError: it cannot be used.
    """
    try:
        with open(path, "rb", opener=_at_once) as file:
            _require_safe(os.fstat(file.fileno()), path, setting, only_ours=only_ours)
            content = file.read(LARGEST_FILE_BYTES + 1)
    except OSError as error:
        hint = "name a file that this user can read"
        if only_ours and not os.access(path.parent, os.X_OK):
            hint = "go to a folder that this user may enter, for example: cd /"
        raise _unusable(setting, f"cannot be read: {error.strerror}", hint) from error
    if len(content) > LARGEST_FILE_BYTES:
        raise _unusable(setting, "is larger than 1 MiB", "that is no settings file")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _unusable(setting, "is not UTF-8 text", "save it as UTF-8") from error


def _at_once(path: str, flags: int) -> int:
    """Open without waiting: opening a pipe that nobody writes to would block for ever."""
    return os.open(path, flags | os.O_NONBLOCK)


def _require_safe(found: os.stat_result, path: Path, setting: str, *, only_ours: bool) -> None:
    if not stat.S_ISREG(found.st_mode):
        hint = f"put a file in the place of {path}"
        raise _unusable(setting, "is no ordinary file, so it is not read", hint)
    refusal = None
    if only_ours and found.st_uid not in (0, os.getuid()):
        refusal = "belongs to another user, so it is not read"
    elif only_ours and found.st_mode & WRITABLE_BY_OTHERS:
        refusal = "can be written by others, so it is not read"
    if refusal is not None:
        hint = f"chown it to root or yourself and chmod go-w {path}"
        raise _unusable(setting, refusal, hint)


def _unusable(setting: str, what: str, hint: str) -> ConfigurationError:
    return ConfigurationError((wrong(setting, what, hint),))


def _of_file(
    files: Files, keys: Keys, left_out: Collection[str], problems: list[Finding]
) -> Iterator[tuple[str, Given]]:
    where = str(files.config_file)

    def walk(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Given]]:
        for name, value in table.items():
            key = prefix + name
            if key in left_out:
                continue
            if key not in keys and isinstance(value, Mapping):
                yield from walk(value, f"{key}.")
            elif key not in keys:
                known = (name for name, setting in keys.items() if not setting.flag_only)
                problems.append(_unknown(key, known, f"in {where}"))
            elif keys[key].flag_only:
                problems.append(_misplaced(key, keys[key], key, f"in {where}"))
            else:
                yield key, Given(value, "file", where)

    return walk(files.table, "")


def _misplaced(key: str, setting: Setting, name: str, where: str) -> Finding:
    if setting.file_only:
        table, _, last = key.rpartition(".")
        hint = f"write it in the TOML file: {last} under [{table}], or a table [{key}]"
        return wrong(name, f"cannot be set {where}", hint)
    hint = f"only as a flag: {_flag(key)}"
    if setting.legacy:
        hint += f", or {setting.legacy[0]}=1 in the environment or .env"
    return wrong(name, f"cannot be set {where}", hint)


def _unknown(name: str, known: Iterable[str], where: str) -> Finding:
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}?" if nearest else SEE
    return wrong(name, f"unknown setting {where}", hint)
