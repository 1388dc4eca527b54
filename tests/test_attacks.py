"""Each attack in the documentation names tests, and each test that is named exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
TEXT = (PROJECT / "docs" / "attacks.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)))
PARAGRAPHS = [found for found in TEXT.split("\n\n") if found.startswith("**")]


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[name for _, name in NAMED])
def test_a_named_test_exists(file: str, name: str) -> None:
    """A test that was renamed takes its documentation along."""
    tree = ast.parse((PROJECT / file).read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    assert name in {node.name for node in tree.body if isinstance(node, functions)}


@pytest.mark.parametrize("paragraph", PARAGRAPHS, ids=lambda text: text.split("**")[1][:40])
def test_every_attack_names_its_test(paragraph: str) -> None:
    """An answer that nobody tries is a hope."""
    assert re.search(r"`tests/[\w/]+\.py::test_\w+`", paragraph)


def test_the_whole_list_is_there() -> None:
    """The document is not read as empty."""
    assert len(PARAGRAPHS) >= 30
    assert len(NAMED) >= 40


def test_reports_have_an_address() -> None:
    """SECURITY.md and the list of attacks lead to each other."""
    assert "docs/attacks.md" in (PROJECT / "SECURITY.md").read_text()
    assert "SECURITY.md" in TEXT
