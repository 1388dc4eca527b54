"""The guides for operators: what is to be typed exists, and both languages say the same."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import click
import pytest

from berinia_webhookd.cli import root
from berinia_webhookd.config.files import CONFIG_VARIABLE

PROJECT = Path(__file__).parents[1]
ENGLISH = PROJECT / "docs" / "operating.md"
FRENCH = PROJECT / "docs" / "exploitation.md"
# Each page in English, and the same one in French.
TRANSLATED = {
    "operating": "exploitation",
    "installing": "installation",
    "agents": "ecrire-des-agents",
    "providers": "fournisseurs",
    "configuring": "configuration",
    "console": "console-web",
    "containers": "conteneurs",
    "many-machines": "plusieurs-machines",
    "troubleshooting": "depannage",
    "declaring-a-channel": "declarer-un-canal",
    "mails": "lire-un-mail",
}
PAIRS = [
    pytest.param(PROJECT / "docs" / f"{one}.md", PROJECT / "docs" / f"{other}.md", id=other)
    for one, other in TRANSLATED.items()
]
FIRST = (
    *("installing", "installation", "configuring", "configuration", "providers", "fournisseurs"),
    *("console", "console-web", "containers", "conteneurs", "accueil"),
)
PAGES = (
    PROJECT / "README.md",
    *(PROJECT / "docs" / f"{name}.md" for name in FIRST),
    ENGLISH,
    FRENCH,
    PROJECT / "contrib" / "systemd" / "README.md",
)

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r" *(?<!\S)#[ !].*$", re.MULTILINE)
COMMENTED = {"sh", "toml"}
MADE = re.compile(r"<!-- made by tests/config/.*?<!-- end of what is made -->", re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
PROGRAM = re.compile(r"(?:\S*/)?berinia-webhookd")
ENDS_A_COMMAND = {"|", "||", "&&", ";", "&", ">", "(", ")"}
RUNS_IT = {"--", "sudo", "webhookd"}  # the last is the container of the compose file
SYSTEMD = re.compile(r"berinia-webhook(?:\.service|\.socket)?|berinia-worker(?:\.service)?")


def blocks(page: Path) -> list[tuple[str, str]]:
    """The language of each block, and what is in it."""
    return FENCE.findall(page.read_text())


def command_lines(page: Path) -> Iterator[str]:
    """What a reader might type: lines of shell blocks, and commands in the text."""
    for language, text in blocks(page):
        if language == "sh":
            yield from text.replace("\\\n", " ").splitlines()
    for words in INLINE.findall(FENCE.sub("", page.read_text())):
        if words.startswith("berinia-webhookd "):
            yield words


def calls(line: str) -> Iterator[list[str]]:
    """The words behind each call of our program in a shell line."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] | None = None
    before = ""
    for word in lexer:
        if words is not None and word in ENDS_A_COMMAND:
            yield words
            words = None
        elif words is not None:
            words.append(word)
        elif PROGRAM.fullmatch(word) and _is_called(before):
            words = []
        before = word
    if words is not None:
        yield words


def _is_called(before: str) -> bool:
    """Whether a word stands where a command does, and is no argument of another one."""
    return not before or before in ENDS_A_COMMAND or before in RUNS_IT or "=" in before


def understand(words: list[str]) -> None:
    """Have click read the words as it would, down to the last command, and run nothing.

    Raises:
        click.UsageError: there is no such command, option or choice.
    """
    command: click.Command = root
    context = None
    while isinstance(command, click.Group):
        context = command.make_context(command.name, list(words), parent=context)
        rest = [*context._protected_args, *context.args]
        _, found, words = command.resolve_command(context, rest)
        assert found is not None
        command = found
    command.make_context(command.name, list(words), parent=context)


def test_a_command_that_is_none_is_found() -> None:
    """What the tests below rest on."""
    assert list(calls("A=1 berinia-webhookd logs -n 2 | grep x")) == [["logs", "-n", "2"]]
    assert list(calls("runuser -u x -- berinia-webhookd doctor")) == [["doctor"]]
    assert not list(calls("cp berinia-webhookd /usr/local/bin"))
    understand(["events", "list", "--state", "dead"])
    for wrong in (["event", "list"], ["events", "lst"], ["logs", "--tail"], ["send", "fax"]):
        with pytest.raises(click.UsageError):
            understand(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_shown_can_be_typed(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name, its options and their values, with the channels that the page itself declares."""
    examples = [text for language, text in blocks(page) if language == "toml"]
    file = tmp_path / "berinia-webhookd.toml"
    file.write_text("\n".join(one for one in examples if "[channels." in one and "preset" in one))
    file.chmod(0o600)
    monkeypatch.setenv(CONFIG_VARIABLE, str(file))
    found = [words for line in command_lines(page) for words in calls(line)]
    assert found
    for words in found:
        try:
            understand(words)
        except click.exceptions.Exit:
            pass  # --version and --help
        except click.UsageError as error:
            raise AssertionError(f"{shlex.join(words)}: {error.format_message()}") from error


def without_comments(block: tuple[str, str]) -> tuple[str, str]:
    """The same block as far as a machine reads it."""
    language, text = block
    return language, COMMENT.sub("", text) if language in COMMENTED else text


def written_by_hand(page: Path) -> str:
    """A page without the table that the settings make, which is there in English alone."""
    return MADE.sub("", page.read_text())


def names(page: Path) -> set[str]:
    """The settings, commands and values that the text names."""
    text = " ".join(FENCE.sub("", written_by_hand(page)).split())
    return {
        words.replace("<Nom>", "<Name>").replace("<nom>", "<name>")
        for words in INLINE.findall(text)
    }


@pytest.mark.parametrize(("english", "french"), PAIRS)
def test_both_languages_have_the_same_headings(english: Path, french: Path) -> None:
    """So that whoever helps by telephone finds the same place."""
    levels = [
        [len(marks) for marks in re.findall(r"^(#+) ", FENCE.sub("", page.read_text()), re.M)]
        for page in (english, french)
    ]
    assert levels[0] == levels[1]


@pytest.mark.parametrize(("english", "french"), PAIRS)
def test_both_languages_have_the_same_commands_and_answers(english: Path, french: Path) -> None:
    """In the same order; comments in them are in the reader's language."""
    for one, other in zip_longest(blocks(english), blocks(french), fillvalue=("", "nothing")):
        assert without_comments(one) == without_comments(other)


@pytest.mark.parametrize(("english", "french"), PAIRS[1:])
def test_both_languages_name_the_same_settings_and_commands(english: Path, french: Path) -> None:
    """In the text as well, but for the guide of symptoms, which says some things in other words."""
    assert names(english) ^ names(french) == set()


@pytest.mark.parametrize(("english", "french"), PAIRS)
def test_both_languages_have_tables_of_the_same_size(english: Path, french: Path) -> None:
    """Each row of a table is a case."""
    one, other = (
        [line.count("|") for line in written_by_hand(page).splitlines() if line.startswith("|")]
        for page in (english, french)
    )
    assert one == other


@pytest.mark.parametrize(("english", "french"), PAIRS)
def test_each_language_leads_to_the_other(english: Path, french: Path) -> None:
    """Above the first heading below the title."""
    for page, other in ((english, french), (french, english)):
        assert f"]({other.name})" in page.read_text().partition("\n## ")[0]


@pytest.mark.parametrize("page", [ENGLISH, FRENCH], ids=lambda page: page.name)
def test_units_are_called_by_their_names(page: Path) -> None:
    """A unit that systemctl does not know is no help at night."""
    units = [
        word
        for line in command_lines(page)
        for words in [line.split()]
        if "systemctl" in words or "journalctl" in words
        for word in words
        if "berinia" in word
    ]
    assert units
    assert [unit for unit in units if not SYSTEMD.fullmatch(unit)] == []
