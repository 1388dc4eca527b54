"""Forms of the kinds that a channel has read before. A provider fills in the same few forms again
and again: the names of one, in their order, make a pattern that takes the next apart and checks the
shapes of its values at once, at half the cost of doing so field by field. What does not match is
read field by field, and refused there with what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from operator import itemgetter
from typing import Final

from berinia_webhookd.urlencoded import decoded_whole

MOST_KINDS: Final = 4  # of as many fields
MOST_FIELDS: Final = 64  # Twilio's have twenty; a pattern of a thousand takes half a second to make
_ANYTHING: Final = "[^&]*"
ShapeOf = Callable[[str], re.Pattern[str] | None]


class KnownForm:
    """A kind of form, by its names, each there once."""

    def __init__(self, names: tuple[str, ...], shape_of: ShapeOf) -> None:
        self.names = names
        fields = (f"{re.escape(name)}=({_shape(shape_of(name))})" for name in names)
        self._take_apart = re.compile("&".join(fields)).fullmatch
        in_order = sorted(names)
        self._in_order = itemgetter(*map(names.index, in_order))
        self._signed = [text for name in in_order for text in (name, "")]

    def values(self, text: str) -> tuple[str, ...] | None:
        """Return the values of a form of this kind; None if it is none."""
        found = self._take_apart(text)
        return None if found is None else found.groups()

    def signed(self, values: tuple[str, ...]) -> str:
        """Return names and values in the order of the names, without separators."""
        parts = self._signed.copy()
        parts[1::2] = self._in_order(values)
        return "".join(parts)


class KnownForms:
    """The kinds that one channel knows."""

    def __init__(self, shape_of: ShapeOf) -> None:
        """`shape_of` says what the value of a field looks like; None: it may be anything."""
        self._shape_of = shape_of
        self._kinds: dict[int, list[KnownForm]] = {}  # by the ampersands between their fields

    def read(self, body: bytes) -> tuple[KnownForm, tuple[str, ...]] | None:
        """Return a form's kind and values, which have their shapes; None if its kind is unknown, or
        it has to be read field by field.
        """
        kinds = self._kinds.get(body.count(b"&"))
        text = None if kinds is None else decoded_whole(body)
        if kinds is None or text is None:
            return None
        for kind in kinds:
            values = kind.values(text)
            if values is not None:
                return kind, values
        return None

    def learn(self, names: tuple[str, ...]) -> None:
        """Know forms of these names, each there once, of which one was proven and well-formed."""
        if len(names) > MOST_FIELDS:
            return
        kinds = self._kinds.setdefault(len(names) - 1, [])
        if all(kind.names != names for kind in kinds):
            kinds[:] = [KnownForm(names, self._shape_of), *kinds][:MOST_KINDS]


def _shape(pattern: re.Pattern[str] | None) -> str:
    """Return a shape as part of a pattern: no value holds an ampersand, as none is decoded."""
    return _ANYTHING if pattern is None else pattern.pattern.replace("[^", "[^&")
