"""Phone numbers that are written without their country, by Google's libphonenumber. Pure rules, for
comparison alone.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

_MOST_DIGITS: Final = 15  # of a number with its country (E.164)
_LEAST_DIGITS: Final = 8  # of one without a leading zero: shorter ones are short codes
_CACHED: Final = 4096


def is_country(text: str) -> bool:
    """Whether it is a country with phone numbers, as ISO 3166 writes it: FR."""
    import phonenumbers  # noqa: PLC0415 - 20 ms, for those who name a country

    return text in phonenumbers.SUPPORTED_REGIONS


@lru_cache(_CACHED)
def with_country(digits: str, country: str) -> str | None:
    """Return a number of a country as E.164; None where it can be no whole number of it, such as a
    short code.
    """
    import phonenumbers  # noqa: PLC0415 - see above

    if len(digits) > _MOST_DIGITS or (len(digits) < _LEAST_DIGITS and digits[:1] != "0"):
        return None
    try:
        number = phonenumbers.parse(digits, country)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_possible_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


@lru_cache(_CACHED)
def without_country(number: str) -> str | None:
    """Return the digits of an E.164 number as its own country writes them, if that is known and
    enough to tell one person from another.
    """
    import phonenumbers  # noqa: PLC0415 - see above

    try:
        parsed = phonenumbers.parse(number)
    except phonenumbers.NumberParseException:
        return None
    written = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.NATIONAL)
    digits: str = phonenumbers.normalize_digits_only(written)
    return digits if len(digits) > _LEAST_DIGITS else None
