"""What the documentation and the presets give to be pasted into the file of settings is valid."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from berinia_webhookd.channels.catalogue import KINDS
from berinia_webhookd.channels.declared import presets
from berinia_webhookd.config.load import examine

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```toml\n(.*?)^```", re.DOTALL | re.MULTILINE)
OF_THE_EXAMPLE = 'kind = "meta-cloud"'  # a kind that its page has the reader write
SETTING = re.compile(r"reconcile_values = \{.*?\}")


def pages() -> Iterator[tuple[str, str]]:
    for page in sorted(
        [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("contrib/**/*.md")]
    ):
        for number, text in enumerate(BLOCK.findall(page.read_text()), 1):
            if OF_THE_EXAMPLE not in text:
                yield f"{page.name}-{number}", text


def of_presets() -> Iterator[tuple[str, str]]:
    """A channel for each preset, with the values that its facts say, as `channels show` does."""
    for name in presets.names():
        said = SETTING.findall(presets.facts(name).get("reconcile", ""))
        if "handshake" in presets.declaration(name):
            said.append('handshake_secrets = ["a text of your own"]')
        yield name, "\n".join(["[channels.x]", f'preset = "{name}"', 'agent = "A"', *said, ""])


SNIPPETS = [*pages(), *of_presets()]


@pytest.mark.parametrize("text", [text for _, text in SNIPPETS], ids=[name for name, _ in SNIPPETS])
def test_it_is_valid_as_it_is_pasted(text: str, tmp_path: Path) -> None:
    """Nothing of it is refused; only what it names on the reader's machine may not be there yet."""
    file = tmp_path / "config.toml"
    file.touch(mode=0o600)
    file.write_text(text)
    home = {"HOME": str(tmp_path)}
    examined = examine(kinds=KINDS, environ=home, working_folder=tmp_path, config_file=file)
    assert list(map(str, examined.problems)) == []


def test_there_are_some() -> None:
    """Of pages in both languages, and a setting that a preset's facts spell out."""
    names = " ".join(name for name, _ in SNIPPETS)
    assert "declaring-a-channel" in names
    assert "declarer-un-canal" in names
    (sinch,) = [text for name, text in SNIPPETS if name == "sinch"]
    assert tomllib.loads(sinch)["channels"]["x"]["reconcile_values"].keys() == {"region", "plan"}
