"""Files that are not used: those that others may write, and those that cannot be read."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .place import Place, sms

STRANGER = 54_321

Write = Callable[[Place], Path]


def write_toml(place: Place) -> Path:
    return place.toml("server.port = 1001")


def write_dotenv(place: Place) -> Path:
    return place.dotenv("BERINIA_WEBHOOKD_SERVER__PORT=1001\n")


in_working_folder = pytest.mark.parametrize("write", [write_toml, write_dotenv])


@in_working_folder
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666], ids=oct)
def test_what_others_may_write_is_refused_by_name(place: Place, write: Write, mode: int) -> None:
    """Whoever can write into the working folder's file would choose our agents."""
    path = write(place)
    path.chmod(mode)
    problem = place.problem()
    assert problem.subject == str(path)
    assert "written by others" in problem.what
    assert f"chmod go-w {path}" in problem.fix[0]


@in_working_folder
def test_what_belongs_to_another_user_is_refused_by_name(
    place: Place, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However tight its mode: the owner may change that."""
    path = write(place)
    if os.getuid() == 0:
        os.chown(path, STRANGER, -1)
    else:
        monkeypatch.setattr(os, "getuid", lambda: STRANGER)
    problem = place.problem()
    assert problem.subject == str(path)
    assert "another user" in problem.what


@in_working_folder
def test_what_others_may_only_read_is_used(place: Place, write: Write) -> None:
    """Reading is their owner's risk, and a warning."""
    write(place).chmod(0o644)
    assert place.load().settings.server.port == 1001


def test_a_link_is_judged_by_what_it_leads_to(place: Place) -> None:
    """The link itself has no mode."""
    target = place.folder / "elsewhere.toml"
    target.write_text("server.port = 1001")
    target.chmod(0o622)
    (place.folder / "berinia-webhookd.toml").symlink_to(target)
    assert "written by others" in place.problem().what


def test_a_named_file_may_be_written_by_others(place: Place) -> None:
    """The operator named it: a group of administrators may share it."""
    place.config_file = write_toml(place)
    place.config_file.chmod(0o664)
    assert place.load().settings.server.port == 1001


def test_a_refused_dotenv_hides_no_other_problem(place: Place) -> None:
    """Both files are looked at in one run."""
    write_dotenv(place).chmod(0o666)
    file = place.toml("server.port = ")
    assert {problem.subject for problem in place.problems()} == {
        str(place.folder / ".env"),
        str(file),
    }


class TestUnreadable:
    def test_broken_toml_says_the_line(self, place: Place) -> None:
        file = place.toml('[server]\nport = 1001\nhost = "half\n')
        problem = place.problem()
        assert problem.subject == str(file)
        assert "line 3" in problem.what

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("server.port = " + "9" * 5000, "a number has over 64 bits"),
            ("server.port = 0x" + "f" * 5000, "a number has over 64 bits"),
            ("server.port = [[" + "9" * 4000 + "]]", "a number has over 64 bits"),
            ("a." * 100_000 + "a = 1", "a key has over 20 parts"),
            ("\n".join(f"[agents.A{one}]" for one in range(2000)), "a table has over 1000 entries"),
        ],
        ids=["digits", "hexadecimal", "inside", "deep", "wide"],
    )
    def test_what_takes_too_long_to_work_on(self, place: Place, text: str, why: str) -> None:
        """Valid TOML, and none for settings: said at once."""
        place.toml(text)
        assert why in place.problem().what

    def test_a_dotenv_that_takes_too_long_to_read(self, place: Place) -> None:
        """Its parser needs the square of the blanks, and lets no other thread run meanwhile."""
        place.dotenv("TWILIO_TOKEN=x" + " " * 1_000_000 + "y")
        assert "100 blanks" in place.problem().what

    def test_unknown_settings_without_number(self, place: Place) -> None:
        """The first hundred are named, and that there are more."""
        place.toml("\n".join(f"nobody{one} = 1" for one in range(900)))
        assert [one.subject for one in place.problems()][-2:] == ["nobody99", "settings"]

    def test_deep_nesting_is_broken_toml(self, place: Place) -> None:
        """It ends as a problem, not as a traceback."""
        place.toml("x = " + "[" * 100_000)
        assert "not valid TOML" in place.problem().what

    @pytest.mark.parametrize("name", ["berinia-webhookd.toml", ".env"])
    def test_not_utf_8(self, place: Place, name: str) -> None:
        path = place.folder / name
        path.write_bytes("# clé\n".encode("latin-1"))
        path.chmod(0o600)
        problem = place.problem()
        assert problem.subject == str(path)
        assert "UTF-8" in problem.what

    def test_a_credential_that_is_not_utf_8(self, place: Place) -> None:
        place.credential("logs.password", "").write_bytes(b"\xff\xfe")
        problem = place.problem()
        assert problem.subject == "logs.password"
        assert "UTF-8" in problem.what

    def test_larger_than_any_settings_file(self, place: Place) -> None:
        place.toml("#" * (1024 * 1024 + 1))
        assert "larger than 1 MiB" in place.problem().what

    def test_a_folder_in_place_of_the_file(self, place: Place) -> None:
        (place.folder / "berinia-webhookd.toml").mkdir()
        assert "is a folder" in place.problem().what

    @pytest.mark.parametrize("name", ["berinia-webhookd.toml", ".env"])
    def test_a_file_that_cannot_be_reached_is_not_passed_over(
        self, place: Place, name: str
    ) -> None:
        """A link in a circle stands for all that stat() refuses: fail closed, and say so."""
        path = place.folder / name
        path.symlink_to(path)
        problem = place.problem()
        assert problem.subject == str(path)
        assert "cannot be read" in problem.what

    def test_a_virtual_environment_named_dotenv_is_none_of_ours(self, place: Place) -> None:
        (place.folder / ".env").mkdir()
        assert place.load().settings.server.port == 8001


# Loads as a user who may not enter the folder `closed`.
LOAD_AS_A_STRANGER = """
import os, sys
from pathlib import Path
from berinia_webhookd.channels.catalogue import KINDS
from berinia_webhookd.config import files
from berinia_webhookd.config.load import load
from berinia_webhookd.errors import CannotStart, ConfigurationError
folder, working_folder, system_file = map(Path, sys.argv[1:])
closed = folder / "closed"
closed.mkdir()
(closed / "config.toml").write_text("server.port = 1001")
closed.chmod(0)
if os.getuid() == 0:
    os.setuid(54321)
files.SYSTEM_FILE = system_file
try:
    load(kinds=KINDS, environ={"HOME": str(folder)}, working_folder=working_folder)
except CannotStart as error:
    findings = error.findings if isinstance(error, ConfigurationError) else [error, error.hint]
    print(*findings, sep="\\n")
"""


def load_as_a_stranger(folder: Path, working_folder: Path, system_file: Path) -> str:
    paths = map(str, (folder, working_folder, system_file))
    done = subprocess.run(
        [sys.executable, "-c", LOAD_AS_A_STRANGER, *paths],
        capture_output=True,
        text=True,
        check=False,
    )
    (folder / "closed").chmod(0o700)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_closed_folder_of_the_system_file_is_a_problem(tmp_path: Path) -> None:
    """A user who may not look into it is told so, with no traceback."""
    closed = tmp_path / "closed" / "config.toml"
    said = load_as_a_stranger(tmp_path, working_folder=tmp_path, system_file=closed)
    assert f"this user may not read {tmp_path}/closed/config.toml" in said
    assert "sudo" in said


def test_a_closed_working_folder_is_a_problem(tmp_path: Path) -> None:
    """As `runuser -u berinia-webhook` typed in /root meets it: nothing is wrong with the file."""
    closed = tmp_path / "closed"
    said = load_as_a_stranger(tmp_path, working_folder=closed, system_file=Path("/nowhere/none"))
    assert f"{closed}/.env: cannot be read: Permission denied (go to a folder that" in said


@pytest.mark.parametrize("name", ["berinia-webhookd.toml", ".env"])
def test_a_pipe_in_the_working_folder_holds_nobody_up(place: Place, name: str) -> None:
    """Whoever may write into the folder could otherwise stop every command that is called there."""
    os.mkfifo(place.folder / name, 0o600)
    problem = place.problem()
    assert problem.subject == str(place.folder / name)
    assert "no ordinary file" in problem.what


def test_a_device_is_not_even_opened(place: Place) -> None:
    """Opening some does something: a watchdog begins to count."""
    (place.folder / ".env").symlink_to("/dev/zero")
    assert "no ordinary file" in place.problem().what


def test_a_named_pipe_is_refused_too(place: Place) -> None:
    """A reload would wait for its writer."""
    place.config_file = place.folder / "pipe.toml"
    os.mkfifo(place.config_file, 0o600)
    problem = place.problem()
    assert problem.subject == str(place.config_file)
    assert "no ordinary file" in problem.what


@pytest.mark.parametrize(
    "name", ["STATE_DIRECTORY", "LOGS_DIRECTORY", "TWILIO_TOKEN", "BERINIA_WEBHOOKD_JOURNAL__NODE"]
)
def test_a_variable_that_is_no_text_is_refused_by_name(place: Place, name: str) -> None:
    """What cannot be written down can name no file and sign nothing; its value is not shown."""
    place.environ[name] = "/tmp/folder-\udcff"
    problem = place.problem()
    assert (problem.subject, problem.what) == (name, "is not UTF-8 text")


class TestUnreadLines:
    """What in `.env` sets nothing is named with its line, and its value is shown to nobody."""

    @pytest.mark.parametrize(
        "line",
        [
            "TWILIO_TOKEN:",
            "TWILIO_TOKEN: s3cret",
            "TWILIO_TOKEN s3cret",
            'TWILIO_TOKEN="s3cret',
            "export TWILIO_TOKEN='s3cret",
            "MAILGUN_SIGNING_KEY: s3cret",
            'BERINIA_WEBHOOKD_LOGS__PASSWORD="s3cret" x',
        ],
    )
    def test_one_of_ours_is_wrong(self, place: Place, line: str) -> None:
        file = place.dotenv(f"# our settings\n\n  {line}\nOTHER=1\n")
        problem = place.problem()
        assert problem.subject == f"{file}, line 3"
        assert "does not set " in problem.what
        assert "s3cret" not in str(problem)

    def test_another_programs_is_a_warning(self, place: Place) -> None:
        """Its settings stand there too."""
        file = place.dotenv("TWILIO_TOKEN=x\nsome words\n")
        loaded = place.load()
        assert sms(loaded.settings).tokens[0].reveal() == "x"
        assert f"{file}, line 2" in [warning.subject for warning in loaded.warnings]

    def test_a_quote_that_swallows_one_of_ours(self, place: Place) -> None:
        """Two that are open make one text of all that stands between them."""
        file = place.dotenv('A=1\nOTHER="half\nTWILIO_TOKEN=s3cret\nMORE=x"\n')
        problem = place.problem()
        assert problem.subject == f"{file}, line 2"
        assert "TWILIO_TOKEN" in problem.what
        assert "s3cret" not in str(problem)

    def test_a_text_over_several_lines_is_no_mistake(self, place: Place) -> None:
        place.dotenv('KEY="-----BEGIN-----\nZm9v=\n-----END-----"\nTWILIO_TOKEN=\'["a",\n"b"]\'\n')
        loaded = place.load()
        assert len(sms(loaded.settings).tokens) == 2
        assert not [one for one in loaded.warnings if ".env" in one.subject]


def test_a_byte_order_mark_is_no_part_of_a_file(place: Place) -> None:
    """Editors of Windows write one."""
    place.toml("\ufeffserver.port = 1001")
    place.dotenv("\ufeffTWILIO_TOKEN=x\n")
    place.credential("logs.password", "\ufeffs3cret")
    settings = place.load().settings
    assert settings.server.port == 1001
    assert sms(settings).tokens[0].reveal() == "x"
    assert settings.logs.password is not None
    assert settings.logs.password.reveal() == "s3cret"


def test_half_a_character_is_no_text(place: Place) -> None:
    """JSON can name one; it could not be signed with, and every message would be answered 500."""
    place.dotenv('TWILIO_TOKEN=["\\ud800"]\n')
    assert place.problem().subject == "channels.sms.tokens"
