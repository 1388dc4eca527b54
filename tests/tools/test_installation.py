"""`serve.json`: how the other commands find a running daemon, and never believe a dead one."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from berinia_webhookd.channels.catalogue import KINDS
from berinia_webhookd.config.load import load
from berinia_webhookd.config.settings import Settings, runtime_folder
from berinia_webhookd.tools import installation
from berinia_webhookd.tools.installation import MAX_BYTES, RunningDaemon

HERE = RunningDaemon(
    pid=os.getpid(),
    address="127.0.0.1:8001",
    version="1.2.3",
    configuration=Path("/etc/berinia-webhookd/config.toml"),
    journal=Path("/var/lib/berinia-webhookd/journal.db"),
    logs=Path("/var/log/berinia-webhookd"),
    state=Path("/var/lib/berinia-webhookd"),
    runtime=Path("/run/berinia-webhookd"),
)


STRANGER = 54_321


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """As systemd gives it to a service."""
    return {
        "RUNTIME_DIRECTORY": str(tmp_path / "run"),
        "STATE_DIRECTORY": str(tmp_path / "state"),
        "HOME": str(tmp_path / "home"),
    }


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    """Stands for the system's folder, with nothing in it."""
    return tmp_path / "nowhere"


def settings_with(tmp_path: Path, **flags: object) -> Settings:
    given_flags = {name.replace("__", "."): value for name, value in flags.items()}
    environ = {"STATE_DIRECTORY": str(tmp_path / "state")}
    return load(
        given_flags, kinds=KINDS, environ=environ, working_folder=tmp_path, config_file=None
    ).settings


def dead_pid() -> int:
    """Of a process that was, and is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(90)
    return process.pid


def test_what_is_written_is_read(environ: dict[str, str], nowhere: Path) -> None:
    """With every path and without the optional ones."""
    for here in (HERE, replace(HERE, configuration=None, journal=None, address="unix:/run/web")):
        installation.write(here, environ)
        assert installation.read(environ, system_folder=nowhere) == here


def test_the_file_is_plain_and_for_its_owner(environ: dict[str, str], tmp_path: Path) -> None:
    """In `$RUNTIME_DIRECTORY`, by its promised name and keys; nothing else is left there."""
    file = installation.write(HERE, environ)
    assert file == tmp_path / "run" / "serve.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(file.parent.iterdir()) == [file]
    assert json.loads(file.read_text()) == {
        "pid": os.getpid(),
        "address": "127.0.0.1:8001",
        "version": "1.2.3",
        "configuration": "/etc/berinia-webhookd/config.toml",
        "journal": "/var/lib/berinia-webhookd/journal.db",
        "logs": "/var/log/berinia-webhookd",
        "state": "/var/lib/berinia-webhookd",
        "console": None,
        "runtime": "/run/berinia-webhookd",
    }


def test_a_rest_of_an_interrupted_writing_is_no_hindrance(environ: dict[str, str]) -> None:
    """The process id comes round again some day."""
    file = installation.write(HERE, environ)
    file.with_name(f".serve.json.{os.getpid()}").write_text("{")
    installation.write(replace(HERE, version="2"), environ)
    assert json.loads(file.read_text())["version"] == "2"
    assert list(file.parent.iterdir()) == [file]


def test_no_secret_is_in_it(tmp_path: Path, environ: dict[str, str]) -> None:
    """The address of a PostgreSQL journal, which holds a password, is left out altogether."""
    settings = settings_with(
        tmp_path,
        journal__url="postgresql://berinia:s3cret@db.example.com/journal",
        channels__sms__tokens="0123456789abcdef0123456789abcdef",
        logs__password="hunter2",
    )
    here = installation.of_settings(
        settings, environ, address="127.0.0.1:8001", version="1", config_file=None
    )
    text = installation.write(here, environ).read_text()
    assert here.journal is None
    assert [word for word in ("s3cret", "0123456789abcdef", "hunter2") if word in text] == []


def test_paths_are_absolute(
    tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other commands run elsewhere."""
    monkeypatch.chdir(tmp_path)
    settings = settings_with(tmp_path, journal__url="sqlite:///here/journal.db", logs__dir="logs")
    here = installation.of_settings(
        settings, environ, address="127.0.0.1:8001", version="1", config_file=Path("berinia.toml")
    )
    assert here.pid == os.getpid()
    assert here.configuration == tmp_path / "berinia.toml"
    assert here.journal == tmp_path / "here" / "journal.db"
    assert here.logs == tmp_path / "logs"


def test_a_process_that_is_gone_is_no_installation(environ: dict[str, str], nowhere: Path) -> None:
    """`kill -9` leaves its file behind."""
    installation.write(replace(HERE, pid=dead_pid()), environ)
    assert installation.read(environ, system_folder=nowhere) is None


def test_the_next_folder_is_asked_when_one_is_stale(environ: dict[str, str], nowhere: Path) -> None:
    """A daemon that was started by hand beside an old file of the service."""
    installation.write(replace(HERE, pid=dead_pid()), environ)
    by_hand = {**environ, "RUNTIME_DIRECTORY": ""}
    installation.write(HERE, by_hand)
    assert installation.read(environ, system_folder=nowhere) == HERE


def test_an_operators_shell_finds_the_service(tmp_path: Path, nowhere: Path) -> None:
    """Which has its file where the unit says, and no such variable is set in a shell."""
    installation.write(HERE, {"RUNTIME_DIRECTORY": str(nowhere)})
    assert installation.read({"HOME": str(tmp_path)}, system_folder=nowhere) == HERE


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"RUNTIME_DIRECTORY": "/run/a:/run/b", "STATE_DIRECTORY": "/s"}, "/run/a"),
        ({"STATE_DIRECTORY": "/s/a:/s/b", "HOME": "/root"}, "/s/a"),
        ({"HOME": "/root"}, "/root/.local/state/berinia-webhookd"),
    ],
)
def test_where_a_process_writes_its_file(environ: dict[str, str], folder: str) -> None:
    """The runtime folder, else the state folder; of several the first."""
    assert runtime_folder(environ) == Path(folder)


def test_leaving_takes_the_file_away(environ: dict[str, str]) -> None:
    """Also when it is gone already."""
    file = installation.write(HERE, environ)
    installation.remove(environ)
    installation.remove(environ)
    assert not file.exists()


def test_leaving_leaves_the_file_of_a_successor(environ: dict[str, str]) -> None:
    """Who started while this one was still ending."""
    successor = replace(HERE, pid=os.getppid())
    file = installation.write(successor, environ)
    installation.remove(environ)
    assert json.loads(file.read_text())["pid"] == os.getppid()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 60_000,
        b" " * (MAX_BYTES + 1),
        b'{"pid": 1}',
    ],
)
def test_garbage_is_no_installation(environ: dict[str, str], nowhere: Path, text: bytes) -> None:
    """It is passed over, not complained about."""
    installation.write(HERE, environ).write_bytes(text)
    assert installation.read(environ, system_folder=nowhere) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pid", 0),
        ("pid", -1),
        ("pid", True),
        pytest.param("pid", str(os.getpid()), id="pid-text"),
        pytest.param("pid", float(os.getpid()), id="pid-float"),
        ("pid", 2**80),
        ("pid", None),
        ("address", None),
        ("address", 8001),
        ("version", None),
        ("logs", None),
        ("state", None),
        ("logs", ["/"]),
        ("journal", 1),
        ("configuration", {}),
    ],
)
def test_a_value_of_the_wrong_kind_makes_it_garbage(
    environ: dict[str, str], nowhere: Path, key: str, value: Any
) -> None:
    """A pid of -1 would be everybody."""
    file = installation.write(HERE, environ)
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    assert installation.read(environ, system_folder=nowhere) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=2) | st.dictionaries(st.text(), inside, max_size=2),
    max_leaves=3,
)


@given(
    st.dictionaries(
        st.sampled_from(["pid", "address", "version", "configuration", "journal", "logs", "state"]),
        JSON,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_document_makes_reading_fail(
    environ: dict[str, str], nowhere: Path, document: dict[str, Any]
) -> None:
    """A whole and well-formed one is believed, any other is none."""
    installation.write(HERE, environ).write_text(json.dumps(document))
    found = installation.read(environ, system_folder=nowhere)
    assert found is None or found.pid == document["pid"]


def test_the_daemon_of_a_named_configuration_wins(
    environ: dict[str, str], nowhere: Path, tmp_path: Path
) -> None:
    """Its file lies beside the configuration; another one's, or a dead one's, does not count."""
    config_file = tmp_path / "dev" / "berinia.toml"
    config_file.parent.mkdir()
    config_file.touch()
    beside = {"RUNTIME_DIRECTORY": str(config_file.parent)}
    ours = replace(HERE, configuration=config_file, address="127.0.0.1:8017")
    installation.write(HERE, environ)
    for other in (HERE, replace(ours, pid=dead_pid())):
        installation.write(other, beside)
        found = installation.read(environ, config_file=config_file, system_folder=nowhere)
        assert found == HERE
    installation.write(ours, beside)
    assert installation.read(environ, config_file=config_file, system_folder=nowhere) == ours
    assert installation.read(environ, system_folder=nowhere) == HERE


def test_a_strangers_file_beside_the_configuration_is_not_believed(
    environ: dict[str, str], nowhere: Path, tmp_path: Path
) -> None:
    """Only root's, or that of the configuration's owner."""
    config_file = tmp_path / "berinia.toml"
    config_file.symlink_to("/etc/passwd")  # a file of root's, whoever runs this
    here = replace(HERE, configuration=config_file)
    file = installation.write(here, {"RUNTIME_DIRECTORY": str(tmp_path)})
    if os.geteuid() == 0:
        assert installation.read(environ, config_file=config_file, system_folder=nowhere) == here
        os.chown(file, 65534, -1)
    assert installation.read(environ, config_file=config_file, system_folder=nowhere) is None


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666], ids=oct)
def test_a_file_that_others_may_write_is_not_believed(
    environ: dict[str, str], nowhere: Path, mode: int
) -> None:
    """Whoever wrote into it would choose the journal that we open."""
    installation.write(HERE, environ).chmod(mode)
    assert installation.read(environ, system_folder=nowhere) is None


def test_a_strangers_file_is_not_believed(environ: dict[str, str], nowhere: Path) -> None:
    """As in a folder that everybody may write to; that of a service belongs to its user."""
    file = installation.write(HERE, environ)
    if os.geteuid() == 0:
        os.chown(file, STRANGER, -1)
        assert installation.read(environ, system_folder=nowhere) is None
        os.chown(file.parent, STRANGER, -1)
    assert installation.read(environ, system_folder=nowhere) == HERE


def test_a_pipe_in_its_place_holds_nobody_up(environ: dict[str, str], nowhere: Path) -> None:
    """Neither the commands that look for it, nor the daemon that takes its own away."""
    file = installation.write(HERE, environ)
    file.unlink()
    os.mkfifo(file, 0o600)
    assert installation.read(environ, system_folder=nowhere) is None
    installation.remove(environ)


def test_which_configuration_a_daemon_uses(tmp_path: Path) -> None:
    """Compared as files, however they are written; none is one, too."""
    file = tmp_path / "berinia.toml"
    file.touch()
    (tmp_path / "link.toml").symlink_to(file)
    here = replace(HERE, configuration=file)
    assert here.uses(file)
    assert here.uses(tmp_path / "link.toml")
    assert here.uses(tmp_path / "folder" / ".." / "berinia.toml")
    assert not here.uses(tmp_path / "other.toml")
    assert not here.uses(None)
    assert replace(HERE, configuration=None).uses(None)


def test_the_running_daemon_says_where_journal_and_logs_are(tmp_path: Path) -> None:
    """Flags and environment of the daemon may differ from those of the command."""
    settings = settings_with(tmp_path)
    state = tmp_path / "state"
    assert installation.journal_url(settings, None) == f"sqlite:///{state}/journal.db"
    assert installation.logs_folder(settings, None) == state / "unified_logs"
    assert installation.journal_url(settings, HERE) == f"sqlite:///{HERE.journal}"
    assert installation.logs_folder(settings, HERE) == HERE.logs


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////var/lib/journal.db", "/var/lib/journal.db"),
        ("postgresql://db.example.com/journal", "postgresql://db.example.com/journal"),
        (
            "postgresql://berinia:s3cret@db.example.com:5432/journal?password=s3cret&sslmode=x",
            "postgresql://db.example.com:5432/journal",
        ),
        ("postgresql://berinia:s3@cret@db.example.com/j", "postgresql://db.example.com/j"),
    ],
)
def test_a_journal_is_shown_without_its_password(url: str, shown: str) -> None:
    """Every command says which one it uses."""
    assert installation.shown_url(url) == shown
