"""Who receives the same messages, side by side in one run. All that a peer needs to keep them, its
database too, has the one core that it is measured on.
"""

from __future__ import annotations

import base64
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from absent import BY_MAKE, Absent
from bench import Bench
from daemon import Installation
from machine import PEERS_PYTHON
from messages import PUBLIC_URL, TOKEN, numbers_in
from processes import Server, free_port
from stores import Redis, asking

HERE = Path(__file__).parent

BARE = "bare aiohttp"
BARE_UVLOOP = "bare aiohttp on uvloop"
OLD_DESIGN = "old design"
OLD_LIGHT = "old design, light"
WEBHOOK = "Debian webhook"
PROCRASTINATE = "FastAPI, procrastinate"
CELERY_ALWAYS = "FastAPI, Celery, always"
CELERY_EVERYSEC = "FastAPI, Celery, everysec"
DAEMON = "berinia-webhookd"
DISPATCHING = "berinia-webhookd dispatching"


class Receiver:
    """A program that is installed in a folder of its own, and may be started several times.

    Args:
        folder: made if need be.
        core: the only core it may use.
        command: `{port}` is filled in.
    """

    def __init__(self, folder: Path, core: int, *command: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._core = core
        self._command = command

    def start(self) -> Server:
        """One that listens."""
        port = free_port()
        command = [part.format(port=port) for part in self._command]
        return Server(command, port, core=self._core, output=self.folder / "output")

    def store_cpu_seconds(self) -> float:
        """CPU time so far, of the server that keeps its messages."""
        return 0.0

    def kept(self) -> list[int]:
        """The numbers of all messages that it keeps, as often as it does."""
        return []

    def close(self) -> None:
        """Ends what was started to keep its messages."""


class Daemon(Receiver):
    """The daemon, which keeps its messages itself."""

    def __init__(self, folder: Path, core: int, *, dispatch: bool) -> None:
        super().__init__(folder, core)
        self.installation = Installation(folder)
        self.dispatches = dispatch

    def start(self) -> Server:
        """`serve`."""
        return self.installation.start(core=self._core, dispatch=self.dispatches)

    def kept(self) -> list[int]:
        """Those of its events."""
        return numbers_in(
            self.installation.texts(
                "SELECT data FROM events JOIN deliveries ON deliveries.number = events.delivery"
                " WHERE deliveries.body IS NOT NULL"
            )
        )


class Procrastinate(Receiver):
    """FastAPI, with a database of its own in the PostgreSQL of this benchmark."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        _need_python()
        self._server = bench.pinned_postgresql
        self._url = self._server.new_database()
        super().__init__(folder, bench.cores.server, *_fastapi("procrastinate", self._url))

    def store_cpu_seconds(self) -> float:
        """PostgreSQL's."""
        return self._server.cpu_seconds()

    def kept(self) -> list[int]:
        """Those of its jobs."""
        with asking(self._url) as ask:
            found = ask("SELECT array_agg(args::text) FROM procrastinate_jobs")
        return numbers_in(found or [])


class Celery(Receiver):
    """FastAPI, with a Redis of its own."""

    def __init__(self, bench: Bench, folder: Path, appendfsync: str) -> None:
        _need_python()
        core = bench.cores.server
        self._redis = Redis(folder / "redis", appendfsync=appendfsync, core=core)
        super().__init__(folder, core, *_fastapi("celery", self._redis.url))

    def store_cpu_seconds(self) -> float:
        """Redis's."""
        return self._redis.cpu_seconds()

    def kept(self) -> list[int]:
        """Those of its tasks."""
        lines = self._redis.ask("LRANGE", "celery", "0", "-1").splitlines()
        return numbers_in(
            base64.b64decode(json.loads(line)["body"]).decode() for line in lines if line
        )

    def close(self) -> None:
        """Redis is its own."""
        self._redis.close()


@dataclass(frozen=True)
class Peer:
    """One who receives.

    Args:
        name: as in the tables.
        what: one line that says what it does for a request.
        install: puts it into a folder; raises `Absent` where something is missing.
        keeps: what it answered with 2xx must be found afterwards.
        long: measured with `--long` only.
    """

    name: str
    what: str
    install: Callable[[Bench, Path], Receiver]
    keeps: bool = False
    long: bool = False


def _need_python() -> None:
    if not PEERS_PYTHON.exists():
        raise Absent("no FastAPI", BY_MAKE)


def _fastapi(kind: str, url: str) -> tuple[str, ...]:
    program = str(HERE / f"fastapi_{kind}.py")
    return (str(PEERS_PYTHON), program, "{port}", TOKEN, PUBLIC_URL, url)


def _bare(*more: str) -> Callable[[Bench, Path], Receiver]:
    command = (sys.executable, str(HERE / "bare_aiohttp.py"), "{port}", *more)
    return lambda bench, folder: Receiver(folder, bench.cores.server, *command)


def _old_design(*more: str) -> Callable[[Bench, Path], Receiver]:
    command = (str(PEERS_PYTHON), str(HERE / "old_design.py"), "{port}", TOKEN, PUBLIC_URL, *more)

    def install(bench: Bench, folder: Path) -> Receiver:
        _need_python()
        return Receiver(folder, bench.cores.server, *command)

    return install


def _webhook(bench: Bench, folder: Path) -> Receiver:
    if shutil.which("webhook") is None:
        raise Absent("no webhook", BY_MAKE)
    hooks = [
        {
            "id": "sms-response",
            "execute-command": "/bin/true",
            # Without this it answers first and works later, with no bound on what it still owes.
            "include-command-output-in-response": True,
        }
    ]
    folder.mkdir(parents=True)
    file = folder / "hooks.json"
    file.write_text(json.dumps(hooks))
    command = ("webhook", "-hooks", str(file), "-urlprefix", "webhook", "-ip", "127.0.0.1")
    return Receiver(folder, bench.cores.server, *command, "-port", "{port}")


def _daemon(*, dispatch: bool) -> Callable[[Bench, Path], Receiver]:
    return lambda bench, folder: Daemon(folder, bench.cores.server, dispatch=dispatch)


def _celery(appendfsync: str) -> Callable[[Bench, Path], Receiver]:
    return lambda bench, folder: Celery(bench, folder, appendfsync)


PEERS = (
    Peer(BARE, "an aiohttp handler that reads the form, and nothing else", _bare()),
    Peer(
        BARE_UVLOOP,
        "the same on the event loop that the daemon uses",
        _bare("uvloop"),
        long=True,
    ),
    Peer(
        OLD_DESIGN,
        "FastAPI, uvicorn, slowapi's middleware, twilio's `validate`; keeps nothing",
        _old_design(),
    ),
    Peer(
        OLD_LIGHT,
        "the same on uvloop, slowapi as a decorator",
        _old_design("light"),
        long=True,
    ),
    Peer(WEBHOOK, "Debian's `webhook` running `/bin/true`; verifies and keeps nothing", _webhook),
    Peer(
        PROCRASTINATE,
        "FastAPI on uvloop, twilio's `validate`, a job committed and flushed by PostgreSQL",
        Procrastinate,
        keeps=True,
    ),
    Peer(
        CELERY_ALWAYS,
        "FastAPI on uvloop, twilio's `validate`, a task in Redis, `appendfsync always`",
        _celery("always"),
        keeps=True,
    ),
    Peer(
        CELERY_EVERYSEC,
        "the same with `appendfsync everysec`: a second of them may be gone after a power cut",
        _celery("everysec"),
        keeps=True,
    ),
    Peer(
        DAEMON,
        "`serve --no-dispatch`: verified, committed, flushed, logged",
        _daemon(dispatch=False),
        keeps=True,
    ),
    Peer(
        DISPATCHING,
        "`serve`: the same, and every event dispatched to `log:`",
        _daemon(dispatch=True),
        keeps=True,
    ),
)


def peer(name: str) -> Peer:
    """The peer of that name."""
    return next(one for one in PEERS if one.name == name)
