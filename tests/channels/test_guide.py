"""docs/adding-a-channel.md says what there is."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.channels.provider import Provider

from . import meta

GUIDE = (Path(__file__).parents[2] / "docs" / "adding-a-channel.md").read_text()
NAMED = set(re.findall(r"`(?:self\.)?(\w+)`", GUIDE))


@pytest.mark.parametrize("lines", re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL))
def test_its_lines_are_those_of_the_example(lines: str) -> None:
    """So that they cannot become old."""
    assert lines in Path(meta.__file__).read_text()


def test_every_fact_is_explained() -> None:
    """A provider's fields, each in the table."""
    assert {field.name for field in fields(Provider)} <= NAMED


def test_the_whole_contract_is_explained() -> None:
    """What a class has to say, and what it may."""
    said = {name for name in vars(Channel) if not name.startswith("_")}
    assert said | set(Channel.__annotations__) <= NAMED
