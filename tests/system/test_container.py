"""The container's image, carried out as far as that goes without a container engine: its steps, and
the daemon in it as compose.yaml starts it, with Caddy in front. What is not: pulling base images,
the networks and volumes of compose, and Caddy's certificates.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from ..absent import needs_root
from ..end_to_end.daemon import PATIENCE_SECONDS, SMS_PATH, TOKEN, Daemon, sample_sms, signed_sms
from ..outbound.agent_world import until
from ..release.building import PROGRAMS, PROJECT
from .dockerfile import Image, build, context_of

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800), needs_root]

FOLDER = PROJECT / "contrib" / "container"
JOURNAL = "/var/lib/berinia-webhookd/journal.db"
AGENT = """
import os

def handle(event):
    return {"response": f"read by user {os.getuid()}"}
"""
SETTINGS = f"""
channels.sms.tokens = ["{TOKEN}"]
agents.path = "/srv/agents"
agents.ResponseListenerAgent.target = "python:reader:handle"
rate_limit.verified_requests = 6000
"""


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """Built as `docker build` would."""
    place = Path(tempfile.mkdtemp(prefix="berinia-image-", dir="/var/tmp"))
    try:
        ignore = FOLDER / "Dockerfile.dockerignore"
        yield build(FOLDER / "Dockerfile", context_of(PROJECT, ignore, place / "context"), place)
    finally:
        shutil.rmtree(place)


class Contained(Daemon):
    """The daemon in the image, in the folders of the machine that stand for volumes."""

    def __init__(self, image: Image, folder: Path, public_url: str = "") -> None:
        super().__init__(folder)
        for above in (folder, folder.parent):
            above.chmod(0o755)
        self.image = image
        self.inside = {
            "BERINIA_WEBHOOKD_SERVER__TRUSTED_PROXIES": "127.0.0.1",
            "BERINIA_WEBHOOKD_SERVER__PUBLIC_URL": public_url,
        }
        etc = folder / "etc"
        etc.mkdir()
        (etc / "config.toml").write_text(SETTINGS)
        (self.agents / "reader.py").write_text(AGENT)
        self.read = {"/etc/berinia-webhookd": etc, "/srv/agents": self.agents}
        self.written: dict[str, Path] = {}
        for place in (*image.lists["VOLUME"], "/run/berinia-webhookd"):
            here = self.written[place] = folder / place.lstrip("/").replace("/", "-")
            here.mkdir(mode=0o700)
            os.chown(here, *map(int, image.user.split(":")))

    def command(self, *words: str) -> list[str]:
        """In the container; the entry point before it, where the words are one of its commands."""
        return self.image.started(
            [*self.image.lists["ENTRYPOINT"], *words],
            read=self.read,
            written=self.written,
            environment=self.inside,
        )

    @property
    def pid(self) -> int:
        """Of the daemon itself, below bubblewrap's two processes."""
        assert self.process is not None
        found = self.process.pid
        for _ in range(2):
            (below,) = Path(f"/proc/{found}/task/{found}/children").read_text().split()
            found = int(below)
        return found

    def status(self) -> str:
        """What the kernel says of the daemon."""
        return Path(f"/proc/{self.pid}/status").read_text()

    def stop(self) -> int:
        os.kill(self.pid, signal.SIGTERM)
        return self.wait_until_ended()


@contextmanager
def caddy(folder: Path, port: int, daemon_port: int) -> Iterator[None]:
    """Caddy with the Caddyfile, for plain http on this machine."""
    environ = {
        **os.environ,
        "DOMAIN": f"http://localhost:{port}",
        "DAEMON": f"127.0.0.1:{daemon_port}",
        "HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
        "XDG_DATA_HOME": str(folder),
    }
    text = "{\n\tadmin off\n}\n" + (FOLDER / "Caddyfile").read_text()
    (folder / "Caddyfile").write_text(text)
    process = subprocess.Popen(
        [PROGRAMS / "caddy", "run", "--adapter", "caddyfile", "--config", folder / "Caddyfile"],
        env=environ,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


async def test_a_message_comes_through_caddy_to_an_agent_in_the_image(
    image: Image, tmp_path: Path
) -> None:
    """As a user without rights, on a root that nobody can write; its journal is in its volume, its
    health check agrees, and SIGTERM ends it in order.
    """
    port = free_port()
    public = f"http://localhost:{port}"
    with closing(Contained(image, tmp_path / "container", public)) as daemon:
        daemon.role = (*image.lists["CMD"], "--port", "0")
        daemon.start()
        status = daemon.status()
        user = image.user.partition(":")[0]
        for line in (f"Uid:\t{user}\t{user}", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"):
            assert line in status
        with caddy(tmp_path, port, daemon.port):
            await until(lambda: listens(port))
            body, headers = signed_sms(sample_sms(), url=public + SMS_PATH)
            daemon_port, daemon.port = daemon.port, port
            host = {"Host": f"localhost:{port}"}
            assert daemon.post_sms(body, {**headers, **host}).status == 200
            for path in ("/webhook/logs", "/webhook/whatsapp", "/metrics", "/health", "/"):
                assert daemon.request("GET", path, headers=host).status == 404
            daemon.port = daemon_port
        daemon.wait_for("attempt.succeeded")
        assert daemon.wait_for("request.finished", status=200)["client"] == "127.0.0.1"
        shown = daemon.run("events", "list", "--json").stdout
        (event,) = daemon.run("events", "export").stdout.splitlines()
        assert '"state": "done"' in shown
        assert f"read by user {user}" in event
        assert (daemon.written["/var/lib/berinia-webhookd"] / "journal.db-wal").exists()
        check = [
            one.replace(":8001/", f":{daemon.port}/") for one in image.lists["CMD of HEALTHCHECK"]
        ]
        assert any(str(daemon.port) in one for one in check)
        assert inside(daemon, check).returncode == 0
        writing = ["/bin/sh", "-c", "touch /opt/berinia-webhookd/x /etc/x /srv/agents/x"]
        refused = inside(daemon, writing)
        assert refused.stderr.count("Read-only file system") == 3
        assert daemon.stop() == 0
        assert inside(daemon, check).returncode != 0


def inside(daemon: Contained, words: list[str]) -> subprocess.CompletedProcess[str]:
    """Another program in the container."""
    command = daemon.image.started(words, read=daemon.read, written=daemon.written, environment={})
    return subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )


def test_a_journal_that_is_mounted_as_a_file_is_refused(image: Image, tmp_path: Path) -> None:
    """Its latest commits would lie beside it, in the container, and be gone with it: by `serve` and
    by `check-config`, with what to mount instead.
    """
    with closing(Contained(image, tmp_path / "container")) as daemon:
        kept = tmp_path / "journal.db"
        kept.touch(mode=0o600)
        os.chown(kept, *map(int, image.user.split(":")))
        daemon.written[JOURNAL] = kept
        done = daemon.run("serve", check=False)
        assert done.returncode == 3
        assert f"the journal {JOURNAL} is mounted into its folder by itself" in done.stderr
        assert "mount the folder that it is in" in done.stderr
        checked = daemon.run("check-config", check=False)
        assert checked.returncode == 1
        assert "is mounted into its folder by itself" in " ".join(checked.stdout.split())
