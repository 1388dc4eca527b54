"""Installing as its guide says: a wheel, a virtual environment of Debian's Python, packages from
PyPI, and a user of its own. Run by root it becomes that user; run by others it stays who it is.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..end_to_end.daemon import PATIENCE_SECONDS, TOKEN, Daemon
from ..end_to_end.providers import WHATSAPP_PATH, posted_whatsapp

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

PROJECT = Path(__file__).parents[2]
SOURCES = ("berinia_webhookd", "contrib", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
CONTRIB = PROJECT / "contrib"
GUIDE = PROJECT / "docs" / "installing.md"
SERVICE_USER = 54_321 if os.geteuid() == 0 else os.geteuid()
SERVICE_GROUP = 54_321 if os.geteuid() == 0 else os.getegid()
AS_SERVICE = (
    ("setpriv", f"--reuid={SERVICE_USER}", f"--regid={SERVICE_GROUP}", "--clear-groups")
    if os.geteuid() == 0
    else ()
)
AS_ROOT = () if os.geteuid() == 0 else ("unshare", "--user", "--map-root-user")
ENV = f"""
TWILIO_TOKEN={TOKEN}
MAILGUN_SIGNING_KEY=fedcba9876543210fedcba9876543210
BERINIA_WEBHOOKD_CHANNELS__WHATSAPP__LATE_REPLY_URL=http://127.0.0.1:3030/send
BERINIA_WEBHOOKD_CHANNELS__WHATSAPP__REPLY_WAIT_SECONDS=300
"""
AGENTS = """
[agents.ResponseListenerAgent]
target = "log:"
[agents.MetaAgent]
target = "log:"
[agents.AdminInterpreterAgent]
target = "log:"
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="berinia-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def wheel(place: Path) -> Path:
    """Made from a copy, so that nothing is left behind in the work tree."""
    copy = place / "checkout"
    copy.mkdir()
    for name in SOURCES:
        if (PROJECT / name).is_dir():
            shutil.copytree(
                PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(PROJECT / name, copy)
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", f"--wheel-dir={place}", "."], cwd=copy, check=True)
    [wheel] = place.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def program(place: Path, wheel: Path) -> Path:
    """The installed command."""
    subprocess.run(["/usr/bin/python3", "-m", "venv", place / "opt"], check=True)
    subprocess.run([place / "opt/bin/pip", "--quiet", "install", wheel], check=True)
    return place / "opt/bin/berinia-webhookd"


@dataclass
class Etc:
    """What stands for /etc/berinia-webhookd: root's, and open to the daemon's group."""

    folder: Path

    def write(self, name: str, text: str) -> Path:
        file = self.folder / name
        file.write_text(text)
        os.chown(file, -1, SERVICE_GROUP)
        file.chmod(0o640)
        return file


class Installed(Daemon):
    """The installed program under another user, in folders as systemd makes them."""

    def __init__(self, program: Path, place: Path, launcher: tuple[str, ...]) -> None:
        self.program = program
        self.launcher = launcher
        super().__init__(Path(tempfile.mkdtemp(dir=place)))
        self.folder.chmod(0o755)
        self.etc = Etc(self.folder / "etc")
        self.etc.folder.mkdir()
        own = () if launcher == AS_ROOT else (SERVICE_USER, SERVICE_GROUP)
        for name in ("state", "logs", "run"):
            (self.folder / name).mkdir(mode=0o700)
            if own:
                os.chown(self.folder / name, *own)
        contrib = (CONTRIB / "config" / "berinia-webhookd.toml").read_text()
        self.config = self.etc.write("config.toml", contrib + AGENTS)
        self.etc.write(".env", ENV)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: text for name, text in os.environ.items() if not name.startswith("BERINIA_")}
        return {
            **kept,
            "HOME": str(self.folder / "state"),
            "STATE_DIRECTORY": str(self.folder / "state"),
            "LOGS_DIRECTORY": str(self.folder / "logs"),
            "RUNTIME_DIRECTORY": str(self.folder / "run"),
        }

    def command(self, *words: str) -> list[str]:
        program = [*self.launcher, str(self.program), "--config", str(self.config)]
        # `env -C` goes to the folder that the unit has as its WorkingDirectory=.
        return ["env", "-C", str(self.etc.folder), *program, *words]


@pytest.fixture
def service(program: Path, place: Path) -> Iterator[Installed]:
    """As the unit has it: a user of its own."""
    service = Installed(program, place, AS_SERVICE)
    yield service
    service.close()


@pytest.fixture
def as_root(program: Path, place: Path) -> Iterator[Installed]:
    """As the old unit had it."""
    service = Installed(program, place, AS_ROOT)
    yield service
    service.close()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def states(daemon: Daemon) -> list[str]:
    return [one["state"] for one in json.loads(daemon.run("events", "list", "--json").stdout)]


def test_the_version_is_that_of_the_wheel(program: Path, wheel: Path) -> None:
    """By the command, and by the module of the same interpreter, wherever they are called from."""
    version = wheel.name.split("-")[1]
    interpreter = program.with_name("python")
    for words in ((program,), (interpreter, "-m", "berinia_webhookd")):
        done = subprocess.run(
            [*words, "--version"], capture_output=True, text=True, cwd="/", check=True
        )
        assert done.stdout == f"berinia-webhookd, version {version}\n"


def test_pages_and_completion_come_with_the_wheel(program: Path) -> None:
    """Below share/, from where the guide copies them to /usr/local/share."""
    share = program.parents[1] / "share"
    assert (share / "man/man1/berinia-webhookd-events.1").is_file()
    assert (share / "bash-completion/completions/berinia-webhookd").is_file()
    assert (share / "zsh/site-functions/_berinia-webhookd").is_file()
    assert (share / "fish/vendor_completions.d/berinia-webhookd.fish").is_file()
    copied = "cp -r /opt/berinia-webhookd/share/. /usr/local/share/"
    assert copied in GUIDE.read_text()


def test_the_file_of_contrib_has_no_problems(service: Installed) -> None:
    """As it is: it only lacks secrets and agents, and says so."""
    contrib = (CONTRIB / "config" / "berinia-webhookd.toml").read_text()
    service.etc.write("config.toml", contrib)
    service.etc.write(".env", "")
    found = json.loads(service.run("check-config", "--json").stdout)["findings"]
    assert not [one for one in found if one["level"] == "wrong"]
    assert {one["subject"] for one in found if one["level"] == "warning"} == {
        "channels.sms.tokens",
        "channels.email.signing_keys",
        "channels.whatsapp.late_reply_url",
        "channels.whatsapp.reply_wait_seconds",
        "agents.ResponseListenerAgent.target",
        "agents.MetaAgent.target",
        "agents.AdminInterpreterAgent.target",
    }


def test_a_user_of_its_own_needs_no_more(service: Installed) -> None:
    """`check-config` finds nothing, and a signed message arrives at its agent."""
    assert service.run("check-config").stdout.splitlines()[-1] == "nothing is wrong"
    service.start()
    assert process_user(service) == SERVICE_USER
    done = service.run("send", "sms", "--to", f"http://127.0.0.1:{service.port}")
    assert "200 OK" in done.stdout
    service.wait_for("attempt.succeeded")
    assert states(service) == ["done"]
    assert service.stop() == 0


def test_the_guide_makes_a_word_for_the_bot(service: Installed) -> None:
    """By a line that is typed as it stands there; without the word nobody is the bot."""
    lines = GUIDE.read_text().splitlines()
    (line,) = [one for one in lines if "WHATSAPP__SECRET=$(openssl rand" in one]
    typed = line.replace("/etc/berinia-webhookd", str(service.etc.folder))
    subprocess.run(["sh", "-c", typed], check=True, timeout=PATIENCE_SECONDS)
    word = (service.etc.folder / ".env").read_text().rstrip().rpartition("SECRET=")[2]
    assert len(word) == 64
    service.start()
    body, headers = posted_whatsapp()
    assert service.request("POST", WHATSAPP_PATH, body, headers).status == 403
    told = {**headers, "Authorization": f"Bearer {word}"}
    assert service.request("POST", WHATSAPP_PATH, body, told).status == 202


def test_nobody_else_reads_what_people_wrote(service: Installed) -> None:
    """Journal, logs and what the daemon says of itself, whatever the umask it was started with."""
    service.start(launcher=("sh", "-c", 'umask 022; exec "$@"', "sh"))
    assert service.run("send", "email", "--to", f"http://127.0.0.1:{service.port}").returncode == 0
    service.wait_for("attempt.succeeded")
    written = [
        path
        for name in ("state", "logs", "run")
        for path in (service.folder / name).rglob("*")
        if not path.is_dir()
    ]
    assert {"journal.db", "webhook.log", "email.log", "serve.json"} <= {p.name for p in written}
    assert {path.name: oct(mode_of(path)) for path in written if mode_of(path) & 0o077} == {}
    assert {path.stat().st_uid for path in written} == {SERVICE_USER}


def test_the_command_for_roots_shell_finds_a_stopped_service(
    service: Installed, tmp_path: Path
) -> None:
    """Its journal, its secrets and its logs; from any folder, one that is gone as well."""
    service.start()
    assert service.run("send", "sms", "--to", f"http://127.0.0.1:{service.port}").returncode == 0
    service.wait_for("attempt.succeeded")
    assert service.stop() == 0
    text = (CONTRIB / "systemd" / "berinia-webhookd").read_text()
    for there, here in (
        ("/opt/berinia-webhookd", service.program.parents[1]),
        ("/etc/berinia-webhookd", service.etc.folder),
        ("/var/lib/berinia-webhookd", service.folder / "state"),
        ("/var/log/berinia-webhookd", service.folder / "logs"),
    ):
        assert there in text
        text = text.replace(there, str(here))
    command = tmp_path / "berinia-webhookd"
    command.write_text(text)
    gone = tmp_path / "gone"

    def run(*words: str) -> str:
        gone.mkdir()
        script = f'cd "{gone}"; rmdir "{gone}"; exec sh "$@"'
        done = subprocess.run(
            ["sh", "-c", script, "sh", command, "--config", service.config, *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert [one["state"] for one in json.loads(run("events", "list", "--json"))] == ["done"]
    assert "server.stopped" in run("logs", "-n", "5")
    assert ".env TWILIO_TOKEN" in run("check-config")


def test_root_works_and_is_warned_about(as_root: Installed) -> None:
    """The old unit ran as root; `check-config`, the log and `doctor` say what is better."""
    found = json.loads(as_root.run("check-config", "--json").stdout)["findings"]
    assert [one["subject"] for one in found if one["level"] == "warning"] == ["user"]
    as_root.start()
    as_root.wait_for("config.warning", setting="user")
    assert as_root.run("send", "sms", "--to", f"http://127.0.0.1:{as_root.port}").returncode == 0
    as_root.wait_for("attempt.succeeded")
    found = json.loads(as_root.run("doctor", "--json", check=False).stdout)["findings"]
    [warning] = [one for one in found if one["what"] == "the daemon runs as root"]
    assert warning["level"] == "warning"
    assert "contrib/systemd/berinia-webhook.service" in warning["fix"][0]
    assert as_root.stop() == 0


def process_user(daemon: Daemon) -> int:
    assert daemon.process is not None
    return Path(f"/proc/{daemon.process.pid}").stat().st_uid
