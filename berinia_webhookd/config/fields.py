"""How a setting is declared: as one field of a frozen dataclass, made by `setting(...)`. Its key,
environment variable and credential, its place in `check-config`, in the commented file of contrib
and in docs/configuring.md derive from that field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, TypeVar

ENVIRONMENT_PREFIX: Final = "BERINIA_WEBHOOKD_"
_METADATA: Final = "setting"

Environ = Mapping[str, str]
T = TypeVar("T")
Reader = Callable[[Any], T]


@dataclass(frozen=True, slots=True)
class SameAs:
    """As a default: the value of another setting."""

    key: str


class Required:
    """As a default: there is none, it must be set."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting's facts beside its name and type."""

    read: Reader[Any]
    default: Any  # the value, a function of the environment, `SameAs` or `Required`
    meaning: str
    unset: str | None = None  # the default in words, where a value cannot say it
    example: Any = None  # for the commented file, where the default is no example
    restart: bool = False  # whether a change needs a restart
    secret: bool = False
    legacy: tuple[str, ...] = ()  # variables of the older installation; the first one wins
    flag_only: bool = False
    file_only: bool = False
    by_key: bool = False  # a table of which the file replaces single keys of a preset's


def setting(
    read: Reader[T],
    default: T | Callable[[Environ], T] | SameAs | type[Required],
    meaning: str,
    **facts: Any,
) -> T:
    """Declare a field of a settings dataclass; `facts` are the other fields of `Setting`."""
    made: T = field(metadata={_METADATA: Setting(read, default, meaning, **facts)})
    return made


def settings_of(section: type) -> dict[str, Setting]:
    """Return the settings that a dataclass declares, by field."""
    return {
        one.name: one.metadata[_METADATA] for one in fields(section) if _METADATA in one.metadata
    }


def variable_of(key: str) -> str:
    """Return the environment variable that sets a key."""
    return ENVIRONMENT_PREFIX + key.upper().replace(".", "__").replace("-", "_")
