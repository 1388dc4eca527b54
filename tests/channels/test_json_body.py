"""JSON bodies are read strictly, so that what passes can be stored and handed on."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from berinia_webhookd.channels.json_body import decode_json, decode_json_object
from berinia_webhookd.errors import MalformedDelivery


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{",
        b'{"a": 1} x',
        b'{"a": 1, "a": 1}',
        b'{"a": {"b": 1, "b": 2}}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": 9223372036854775808}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": "\xff"}',
        b'\xef\xbb\xbf{"a": 1}',
        '{"a": 1}'.encode("utf-16"),
        b'{"a": ' * 40 + b"1" + b"}" * 40,
        b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}",
        b"[" * 1_000_000,
        b'{"a":' * 200_000,
    ],
)
def test_what_is_malformed(body: bytes) -> None:
    """Not an object, repeated names, numbers and text others cannot hold, endless nesting."""
    with pytest.raises(MalformedDelivery):
        decode_json_object(body)


def test_what_is_read() -> None:
    """Everything that JSON means, within bounds."""
    document = {"a": [1, -(2**63), 1.5, None, True, "é🙂\u0000"], "": {"b": {}}, "c": 2**63 - 1}
    assert decode_json_object(json.dumps(document).encode()) == document
    deep = b'{"a": ' * 30 + b"1" + b"}" * 30
    assert decode_json_object(deep)["a"]


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text())
documents = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10
)


@given(st.one_of(st.binary(), documents.map(lambda value: json.dumps({"a": value}).encode())))
def test_what_is_read_can_be_written(body: bytes) -> None:
    """Any bytes are malformed, or an object that a strict encoder takes."""
    try:
        document = decode_json_object(body)
    except MalformedDelivery:
        return
    orjson.dumps(document)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (rb'"Salut \ud83d"', "Salut \ufffd"),
        (rb'"\udfff"', "\ufffd"),
        (rb'"\ude42\ud83d!"', "\ufffd\ufffd!"),
        (rb'"\ud83d\ud83d\ude42"', "\ufffd\U0001f642"),
        (rb'"\D83D"', None),
        (rb'"\\ud83d"', "\\ud83d"),
        (rb'"\uD83D\uDE42"', "\U0001f642"),
    ],
)
def test_half_a_surrogate_pair_is_a_replacement_character(body: bytes, value: str | None) -> None:
    """A text cut inside an emoji is read; whole pairs and escaped backslashes stay."""
    document = b'{"a": ' + body + b"}"
    if value is None:
        with pytest.raises(MalformedDelivery):
            decode_json_object(document)
    else:
        assert decode_json_object(document) == {"a": value}


_LEAVES = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.floats(-1, 1)
)
_TREES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


@given(_TREES)
def test_it_is_the_same_however_it_is_spaced(document: object) -> None:
    """What is read at once, and what is read with care."""
    for colon in (":", ": ", " :", "\n:", "\t: "):
        assert decode_json(json.dumps(document, separators=(",", colon)).encode()) == document


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":2}',
        b'{"a":1,"a" :2}',
        b'{"a":1,"\\u0061":2}',
        b'{"a\\":":1,"b":{"c":1,"c":2}}',
        b'{"a":18446744073709551615}',
        b'{"a":18446744073709551616}',
        b'{"a":-9223372036854775809}',
        b"[" * 33 + b"]" * 33,
    ],
)
def test_what_is_read_at_once_hides_nothing(body: bytes) -> None:
    """Neither a second name nor a number that was rounded."""
    with pytest.raises(MalformedDelivery):
        decode_json(body)
