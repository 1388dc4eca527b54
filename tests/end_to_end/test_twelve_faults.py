"""Twelve faults of an installation, each made in a real one: `doctor --problems` names what is
wrong and what fixes it on the first screen of a small terminal, and calls nothing else wrong.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.absent import absent
from tests.full_disk import small_disk
from tests.postgresql import Postgresql
from tests.system.nginx import OLD_BLOCK, OUR_FILE, Nginx
from tests.tools.doctor.conftest import KEY, make, set_public_url

from .daemon import PATIENCE_SECONDS, SMS_PATH, Daemon, sample_sms, signed_sms
from .providers import EMAIL_PATH, posted_mail, proof, sample_mail

OURS = OUR_FILE.read_text()
COLUMNS, ROWS = 80, 24
HOUR_SECONDS = 3600
system = pytest.mark.system
Behind = Callable[..., Nginx]


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder whose name is about as long as that of an installation's."""
    with tempfile.TemporaryDirectory(prefix="berinia-webhookd-") as folder:
        yield Path(folder)


@pytest.fixture
def stopped(place: Path) -> Iterator[Daemon]:
    """A daemon that the test breaks and starts."""
    daemon = make(place)
    yield daemon
    daemon.close()


@pytest.fixture
def nginx_before(place: Path) -> Iterator[Behind]:
    """Starts a daemon with a real nginx before it; a public URL is nginx's own."""
    with ExitStack() as stack:

        def start(
            daemon: Daemon,
            locations: str,
            *,
            public_url: bool = True,
            environment: Mapping[str, str] = {},
        ) -> Nginx:
            daemon.start()
            nginx = Nginx(
                place / "nginx",
                daemon_port=daemon.port,
                locations=locations,
                environment=environment,
            )
            stack.callback(nginx.close)
            if public_url:
                set_public_url(daemon, url_of(nginx))
                daemon.reload()
            return nginx

        yield start


def url_of(nginx: Nginx) -> str:
    return f"https://127.0.0.1:{nginx.port}"


def trusting(nginx: Nginx) -> Mapping[str, str]:
    """The environment of whoever believes its certificate."""
    return {"SSL_CERT_FILE": str(nginx.folder / "certificate.pem")}


def problems(daemon: Daemon, check: str, environment: Mapping[str, str] = {}) -> str:
    """What `doctor --problems` says, in one line: one thing wrong, by this check, on one screen."""
    done = daemon.run(
        "doctor", "--problems", check=False, environment={"COLUMNS": str(COLUMNS), **environment}
    )
    return of_one_check(done, check)


def of_one_check(done: subprocess.CompletedProcess[str], check: str) -> str:
    lines = done.stdout.strip().splitlines()
    assert done.returncode == 1, done.stderr
    assert sum(-(-len(line) // COLUMNS) or 1 for line in lines) <= ROWS
    found = [line.split()[1] for line in lines if line.startswith("wrong")]
    assert [subject.partition(".")[0] for subject in found] == [check]
    assert lines[-1].startswith("1 thing wrong")
    return " ".join(done.stdout.split())


def write(daemon: Daemon, lines: str) -> None:
    daemon.config.write_text(f"{lines}\n{daemon.config.read_text()}")


def agent(daemon: Daemon, body: str) -> None:
    """Have the agent do this with each message."""
    lines = textwrap.indent(body, " " * 8)
    text = f"import time\n\nclass Recorder:\n    def run(self, input_data):\n{lines}\n"
    (daemon.agents / "recorder.py").write_text(text)


@system
def test_a_wrong_token(stopped: Daemon, nginx_before: Behind) -> None:
    """Twilio signs with another than ours: every SMS is refused, our own probe is not."""
    nginx = nginx_before(stopped, OURS)
    for _ in range(3):
        url = url_of(nginx) + SMS_PATH
        body, headers = signed_sms(sample_sms(), token="1" * 32, url=url)
        host = f"127.0.0.1:{nginx.port}"
        assert nginx.request("POST", SMS_PATH, body, headers, host=host).status == 403
    stopped.wait_for("signature.invalid", count=3)
    said = problems(stopped, "refused", trusting(nginx))
    assert "sms: 3 requests of Twilio refused for the signature" in said
    assert "TWILIO_TOKEN=" in said


@system
def test_an_nginx_that_does_not_say_https(stopped: Daemon, nginx_before: Behind) -> None:
    """Without a public URL signatures are checked with the scheme that nginx says."""
    without = OURS.replace("proxy_set_header X-Forwarded-Proto $scheme;", "")
    nginx = nginx_before(stopped, without, public_url=False)
    body, headers = signed_sms(sample_sms(), url=f"https://app.example.com{SMS_PATH}")
    assert nginx.request("POST", SMS_PATH, body, headers).status == 403
    stopped.wait_for("signature.invalid")
    said = problems(stopped, "refused", trusting(nginx))
    assert "sms: 1 request of Twilio refused for the signature" in said
    assert "proxy_set_header X-Forwarded-Proto $scheme;" in said


@system
def test_a_proxy_pass_with_a_path(stopped: Daemon, nginx_before: Behind) -> None:
    """What nginx strips, the daemon does not know."""
    stripping = OLD_BLOCK.replace("8001/webhook/;", "8001/;")
    nginx = nginx_before(stopped, stripping)
    body, headers = signed_sms(sample_sms(), url=url_of(nginx) + SMS_PATH)
    assert nginx.request("POST", SMS_PATH, body, headers).status == 404
    said = problems(stopped, "nginx", trusting(nginx))
    assert f"{SMS_PATH}, {EMAIL_PATH}: nginx passes on another path" in said
    assert f"proxy_pass http://127.0.0.1:{stopped.port};" in said


def test_an_agent_that_cannot_be_imported(stopped: Daemon) -> None:
    """Its messages wait; the exception and the line are named."""
    text = (stopped.agents / "recorder.py").read_text()
    (stopped.agents / "recorder.py").write_text(f"{text}\nimport a_module_that_is_not_there\n")
    stopped.start()
    stopped.wait_for("agent.unavailable")
    body, headers = signed_sms(sample_sms(), url=f"http://127.0.0.1:{stopped.port}{SMS_PATH}")
    assert stopped.post_sms(body, headers).status == 200
    said = problems(stopped, "agents")
    assert "ResponseListenerAgent cannot be loaded" in said
    assert "No module named 'a_module_that_is_not_there'" in said
    assert f"recorder.py:{len(text.splitlines()) + 2}: " in said


@pytest.mark.parametrize(
    ("body", "limit_seconds", "reason", "fix"),
    [
        ("time.sleep(60)", 0.5, "no answer within 0.5 s", "timeout_seconds"),
        ("raise RuntimeError('no CRM')", 60, "recorder.py:5: RuntimeError: no CRM", "d reload"),
    ],
    ids=["hangs", "fails"],
)
def test_an_agent_that_hangs_or_fails(
    stopped: Daemon, body: str, limit_seconds: float, reason: str, fix: str
) -> None:
    """At once after its third attempt, with what it says, while all its messages are to be tried
    again for hours.
    """
    agent(stopped, body)
    text = stopped.config.read_text()
    stopped.config.write_text(text.replace("[0.05, 0.05, 0.05]", "[600]"))
    write(stopped, f"agents.ResponseListenerAgent.timeout_seconds = {limit_seconds}")
    stopped.start()
    for number in range(3):
        sms = sample_sms(From=f"+3363998001{number}")
        url = f"http://127.0.0.1:{stopped.port}{SMS_PATH}"
        assert stopped.post_sms(*signed_sms(sms, url=url)).status == 200
    stopped.wait_for("attempt.failed", count=3)
    said = problems(stopped, "journal")
    assert "ResponseListenerAgent failed on its last 3 attempts" in said
    assert reason in said
    assert fix in said


def test_a_full_disk(place: Path) -> None:
    """Of the journal and the logs; nothing is accepted."""
    with small_disk(place / "state", 96 * 1024**2) as disk:
        daemon = make(place)
        try:
            daemon.start()
            url = f"http://127.0.0.1:{daemon.port}{SMS_PATH}"
            assert daemon.post_sms(*signed_sms(sample_sms(), url=url)).status == 200
            disk.fill()
            while daemon.post_sms(*signed_sms(sample_sms(), url=url)).status == 200:
                pass  # what the journal's files had room for
            said = problems(daemon, "disk")
        finally:
            daemon.close()
    assert f"{place}/state: 0 MiB free" in said
    assert f"df -h {place}/state" in said


def test_a_port_that_another_holds(stopped: Daemon) -> None:
    """The daemon cannot start, and is told by whom."""
    script = "import socket; s = socket.create_server(('127.0.0.1', 0)); "
    script += "print(s.getsockname()[1], flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        port = int(holder.stdout.readline())
        write(stopped, f"server.port = {port}")
        assert stopped.run("serve", check=False).returncode == 4
        said = problems(stopped, "port")
        holder.kill()
    assert f"port {port} is held by process {holder.pid}" in said
    assert f"kill {holder.pid}" in said


HOLDS_AND_LOOKS = """
import socket, subprocess, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
done = subprocess.run(sys.argv[2:], capture_output=True, text=True)
print(done.stdout, done.stderr, sep="")
sys.exit(done.returncode)
"""
AS_PROCESS_1 = """
mount -t tmpfs tmpfs /etc/systemd/system
printf '[Socket]\\nListenStream=127.0.0.1:%s\\n' "$1" > /etc/systemd/system/berinia-webhook.socket
printf '[Service]\\n' > /etc/systemd/system/berinia-webhook.service
ip link set lo up
exec "$0" -c "$2" "$1" "${@:3}"
"""


@pytest.mark.parametrize(
    ("setting", "check", "words"),
    [
        ("", "service", ("no daemon runs", "systemctl start berinia-webhook")),
        ("server.prot = 1", "server", ("server.prot", "did you mean server.port?")),
    ],
    ids=["stopped", "a slip in the file"],
)
def test_a_port_that_our_socket_holds(
    stopped: Daemon, setting: str, check: str, words: tuple[str, ...]
) -> None:
    """With the service stopped process 1 listens for it, which is right: it is to be started, or
    what keeps it from starting is to be corrected.
    """
    write(stopped, setting)
    port = 8001
    alone = ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        absent("this user may make no namespaces")
    script = AS_PROCESS_1
    done = subprocess.run(
        [
            *(*alone, "bash", "-c", script, sys.executable, str(port), HOLDS_AND_LOOKS),
            *stopped.command("doctor", "--problems"),
        ],
        env={**stopped.environment, "COLUMNS": str(COLUMNS)},
        cwd=stopped.folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    said = of_one_check(done, check)
    assert not [one for one in words if one not in said]
    assert "kill" not in said


@system
def test_a_clock_that_is_off(stopped: Daemon, nginx_before: Behind) -> None:
    """An hour behind that of the machine with the public URL, and of Mailgun, whose mails are from
    the future then.
    """
    [library] = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    right = {"LD_PRELOAD": str(library), "FAKETIME": f"+{HOUR_SECONDS}s"}
    nginx = nginx_before(stopped, OURS, environment=right)
    mail = sample_mail(**proof(timestamp=str(int(time.time()) + HOUR_SECONDS), key=KEY))
    body, headers = posted_mail(mail)
    host = f"127.0.0.1:{nginx.port}"
    assert nginx.request("POST", EMAIL_PATH, body, headers, host=host).status == 403
    stopped.wait_for("signature.invalid")
    environment = {"COLUMNS": str(COLUMNS), **trusting(nginx)}
    for _ in range(4):  # on a busy machine the public URL may not answer in time
        done = stopped.run("doctor", "--problems", check=False, environment=environment)
        if "behind that of" in done.stdout:
            break
    said = of_one_check(done, "clock")
    assert re.search(r"is (1 h|59 min \d+ s) behind that of https://127.0.0.1", said)
    assert "timedatectl set-ntp true" in said


def test_a_damaged_journal(stopped: Daemon) -> None:
    """The daemon runs and answers 503, and the file is named with the way to save it."""
    stopped.start()
    url = f"http://127.0.0.1:{stopped.port}{SMS_PATH}"
    assert stopped.post_sms(*signed_sms(sample_sms(), url=url)).status == 200
    assert stopped.stop() == 0
    path = stopped.folder / "state" / "journal.db"
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 8192)
    stopped.launch()
    stopped.wait_for("journal.degraded")
    said = problems(stopped, "journal")
    assert "is damaged" in said
    assert ".dump" in said


async def test_a_postgresql_that_is_down(stopped: Daemon) -> None:
    """Under a running daemon."""
    server = Postgresql()
    url = server.url(await server.new_database())
    write(stopped, f'journal.url = "{url}"')
    await asyncio.to_thread(stopped.start)
    server.close()
    await asyncio.to_thread(stopped.wait_for, "journal.degraded")
    said = await asyncio.to_thread(problems, stopped, "journal")
    assert "postgresql://" in said
    assert "systemctl status postgresql" in said


@system
def test_a_healthy_one_that_strangers_try(stopped: Daemon, nginx_before: Behind) -> None:
    """A hundred forgeries without a signature or with a malformed one, then some that look real
    before a message that is: nothing is wrong.
    """
    nginx = nginx_before(stopped, OURS)
    url = url_of(nginx) + SMS_PATH
    host = f"127.0.0.1:{nginx.port}"
    for number in range(50):
        body, headers = signed_sms(sample_sms(), url=url)
        if number % 2:
            headers["X-Twilio-Signature"] = "forged"
        else:
            del headers["X-Twilio-Signature"]
        assert nginx.request("POST", SMS_PATH, body, headers, host=host).status == 403
        mail, of_mail = posted_mail({**sample_mail(), "signature": "forged"})
        assert nginx.request("POST", EMAIL_PATH, mail, of_mail, host=host).status == 403
        if number % 10 == 0:
            body, headers = signed_sms(sample_sms(), token="1" * 32, url=url)
            assert nginx.request("POST", SMS_PATH, body, headers, host=host).status == 403
            body, headers = signed_sms(sample_sms(), url=url)
            assert nginx.request("POST", SMS_PATH, body, headers, host=host).status == 200
    done = stopped.run(
        "doctor", "--problems", environment={"COLUMNS": str(COLUMNS), **trusting(nginx)}
    )
    assert "nothing is wrong" in done.stdout
