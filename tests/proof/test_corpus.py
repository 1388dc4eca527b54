"""What fuzzing found to reach different code runs without a bug."""

from __future__ import annotations

import pytest

from . import corpus
from .conftest import Say
from .decoders import DECODERS


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_no_input_of_the_corpus_breaks_a_decoder(name: str, say: Say) -> None:
    """Each is refused or read, and what is read survives being stored."""
    inputs = corpus.read(name)
    assert inputs
    for found in inputs:
        DECODERS[name](found)
    say(f"corpus of {name}", tried=len(inputs), bugs=0)
