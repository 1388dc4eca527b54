"""JSON, also of what orjson refuses."""

from __future__ import annotations

from typing import Any

import pytest

from berinia_webhookd import json_text


@pytest.mark.parametrize("value", ["é🙂", "\ud83d half", 2**70, {"a": [1, None, "\ud83d"]}])
def test_what_was_encoded_is_decoded(value: Any) -> None:
    """Lone surrogates and large integers as well."""
    assert json_text.decode(json_text.encode(value)) == value


def test_what_no_json_can_hold_is_refused() -> None:
    """Nothing is guessed."""
    with pytest.raises(TypeError):
        json_text.encode({"at": object()})
