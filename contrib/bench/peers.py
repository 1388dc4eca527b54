"""Who receives the same messages, side by side in one run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from daemon import Installation
from messages import PUBLIC_URL, TOKEN
from processes import Server, free_port

HERE = Path(__file__).parent
# An environment of its own (see old_design.txt), inside that of the benchmark.
OLD_DESIGN_PYTHON = Path(sys.prefix) / "old-design" / "bin" / "python"

BARE = "bare aiohttp"
BARE_UVLOOP = "bare aiohttp on uvloop"
OLD_DESIGN = "old design"
OLD_LIGHT = "old design, light"
WEBHOOK = "Debian webhook"
DAEMON = "berinia-webhookd"
DISPATCHING = "berinia-webhookd dispatching"


@dataclass(frozen=True)
class Peer:
    """One who receives.

    Args:
        name: as in the tables.
        what: one line that says what it does for a request.
        start: starts it in a folder of its own, on a core.
        dispatches: None if it is not the daemon.
        in_short: measured with the fewest connections only.
    """

    name: str
    what: str
    start: Callable[[Path, int], Server]
    dispatches: bool | None = None
    in_short: bool = False


def _program(*command: str) -> Callable[[Path, int], Server]:
    """`{port}` and `{folder}` are filled in."""

    def start(folder: Path, core: int) -> Server:
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        filled = [part.format(port=port, folder=folder) for part in command]
        return Server(filled, port, core=core, output=folder / "output")

    return start


def _webhook(folder: Path, core: int) -> Server:
    folder.mkdir(parents=True, exist_ok=True)
    hooks = [
        {
            "id": "sms-response",
            "execute-command": "/bin/true",
            # Without this it answers first and works later, with no bound on what it still owes.
            "include-command-output-in-response": True,
        }
    ]
    file = folder / "hooks.json"
    file.write_text(json.dumps(hooks))
    return _program(
        *("webhook", "-hooks", str(file), "-urlprefix", "webhook"),
        *("-ip", "127.0.0.1", "-port", "{port}"),
    )(folder, core)


def _daemon(*, dispatch: bool) -> Callable[[Path, int], Server]:
    def start(folder: Path, core: int) -> Server:
        return Installation(folder).start(core=core, dispatch=dispatch)

    return start


_OLD = (str(OLD_DESIGN_PYTHON), str(HERE / "old_design.py"), "{port}", TOKEN, PUBLIC_URL)

PEERS = (
    Peer(
        BARE,
        "an aiohttp handler that reads the form, and nothing else",
        _program(sys.executable, str(HERE / "bare_aiohttp.py"), "{port}"),
    ),
    Peer(
        BARE_UVLOOP,
        "the same on the event loop that the daemon uses",
        _program(sys.executable, str(HERE / "bare_aiohttp.py"), "{port}", "uvloop"),
        in_short=True,
    ),
    Peer(
        OLD_DESIGN,
        "FastAPI, uvicorn, slowapi's middleware, twilio's `validate`; keeps nothing",
        _program(*_OLD),
    ),
    Peer(
        OLD_LIGHT,
        "the same on uvloop, slowapi as a decorator",
        _program(*_OLD, "light"),
        in_short=True,
    ),
    Peer(WEBHOOK, "Debian's `webhook` running `/bin/true`; verifies and keeps nothing", _webhook),
    Peer(
        DAEMON,
        "`serve --no-dispatch`: verified, committed, flushed, logged",
        _daemon(dispatch=False),
        dispatches=False,
    ),
    Peer(
        DISPATCHING,
        "`serve`: the same, and every event dispatched to `log:`",
        _daemon(dispatch=True),
        dispatches=True,
    ),
)


def peer(name: str) -> Peer:
    """The peer of that name."""
    return next(one for one in PEERS if one.name == name)
