"""Gathers raw values, and where each came from: flag, environment, `.env` in the working folder,
systemd credential or TOML file, of which the first wins.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from berinia_webhookd.config.fields import ENVIRONMENT_PREFIX, Environ, Setting, variable_of
from berinia_webhookd.config.files import CONFIG_VARIABLE, Files, is_there, text_of
from berinia_webhookd.errors import ConfigurationError
from berinia_webhookd.findings import Finding, warning, wrong

FOLDERS: Final = ("STATE", "LOGS", "RUNTIME", "CREDENTIALS")
FOLDER_VARIABLES: Final = ("HOME", *(f"{name}_DIRECTORY" for name in FOLDERS))
SEE: Final = "see contrib/config/berinia-webhookd.toml"
MOST_PROBLEMS: Final = 100  # then unknown settings are not named any more: that takes time
LONGEST_NAME: Final = 100  # of an unknown setting, as shown


Source = Literal["flag", "environment", ".env", "credential", "file", "preset", "default"]
Keys = Mapping[str, Setting]


@dataclass(frozen=True, slots=True)
class Given:
    """A raw value and where it came from."""

    raw: Any
    source: Source
    where: str  # the flag, variable or file


Layer = Mapping[str, Given]  # the values of one source, by key


def readable(environ: Environ) -> tuple[Environ, frozenset[str]]:
    """Return the environment without variables that are not UTF-8, and the names of those."""
    broken = frozenset(
        name for name, value in environ.items() if value.encode(errors="replace").decode() != value
    )
    return {name: value for name, value in environ.items() if name not in broken}, broken


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
    """Return the values of each source, the highest first.

    `broken` are the variables that are not UTF-8, `left_out` the tables that were refused before.
    """
    names = {*FOLDER_VARIABLES, *_legacy_names(keys)}
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


def unread(files: Files, keys: Keys) -> Iterator[Finding]:
    """Yield the lines of `.env` that set nothing; wrong are those with the name of a setting."""
    ours = "|".join([ENVIRONMENT_PREFIX + r"\w+", *_legacy_names(keys)])
    named, set_in_line = (
        re.compile(rf"\b(?:{ours})\b"),
        re.compile(rf"\s*(?:export\s+)?({ours})\s*="),
    )
    for line in files.unread:
        subject = f"{files.dotenv_file}, line {line.number}"
        if line.quoted:
            if found := set_in_line.match(line.text):
                what = f"opens a quote that contains {found[1]}, which is therefore not set"
                yield wrong(subject, what, "close the quote")
        elif found := named.search(line.text):
            yield wrong(subject, f"does not set {found[0]}", f"{found[0]}=…, with quotes closed")
        else:
            yield warning(subject, "sets nothing", "NAME=value, with quotes closed")


def _legacy_names(keys: Keys) -> set[str]:
    return {name for setting in keys.values() for name in setting.legacy}


def colliding(keys: Keys) -> Iterator[Finding]:
    """Yield settings that share an environment variable."""
    seen: dict[str, str] = {}
    for key, setting in keys.items():
        other = seen.setdefault(variable_of(key), key)
        if other != key and _anywhere(setting) and _anywhere(keys[other]):
            hint = "give one of the two channels another name"
            yield wrong(key, f"has the same variable as {other}: {variable_of(key)}", hint)


def _flag(key: str) -> str:
    return "--" + key.rpartition(".")[2].replace("_", "-")


def _first_name_wins(layers: list[Layer], key: str, legacy: tuple[str, ...]) -> None:
    """Where the first legacy name is set, drop values of the others, from any source."""
    given = {layer[key].where for layer in layers if key in layer}
    worse = legacy[1:] if legacy and legacy[0] in given else ()
    for number, layer in enumerate(layers):
        if key in layer and layer[key].where in worse:
            layers[number] = {name: value for name, value in layer.items() if name != key}


def _variables(
    variables: Mapping[str, str], source: Source, keys: Keys, problems: list[Finding]
) -> Iterator[tuple[str, Given]]:
    """Yield what variables set, by our prefix or a legacy name; empty ones count as unset."""
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
            _add_unknown(problems, name, known, f"in the {source}")
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
        if setting.flag_only or not is_there(path):
            continue
        try:
            text = text_of(path, key).strip()
        except ConfigurationError as error:
            problems.extend(error.findings)
            continue
        if text and setting.file_only:
            problems.append(_misplaced(key, setting, key, "as a credential"))
        elif text:
            yield key, Given(text, "credential", str(path))


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
                _add_unknown(problems, key, known, f"in {where}")
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


def _add_unknown(problems: list[Finding], name: str, known: Iterable[str], where: str) -> None:
    if len(problems) < MOST_PROBLEMS:
        nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]}?" if nearest else SEE
        problems.append(wrong(name[:LONGEST_NAME], f"unknown setting {where}", hint))
    elif len(problems) == MOST_PROBLEMS:
        problems.append(wrong("settings", f"more unknown ones {where}", SEE))
