"""The daemon as it is measured: a folder with its settings, journal and logs, of which it may be
started several times, and what its journal says afterwards.
"""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from load import must_be_kept
from messages import PUBLIC_URL, TOKEN
from processes import Server, free_port, wait_until

LOGS_PASSWORD = "correct horse battery staple"
LOG_AGENT = 'agents.ResponseListenerAgent.target = "log:"'
COMMAND = (sys.executable, "-m", "berinia_webhookd")


class Installation:
    """One daemon's folder.

    Args:
        folder: made if need be.
        settings: further lines of TOML.
    """

    def __init__(self, folder: Path, settings: str = LOG_AGENT) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.journal = folder / "journal.db"
        self.logs = folder / "unified_logs"
        self.config = folder / "bench.toml"
        self.configure(settings)

    def configure(self, settings: str) -> None:
        """Other settings for the next start; the limits are out of the way, because all comes from
        one address.
        """
        self.config.write_text(
            f'server.public_url = "{PUBLIC_URL}"\n'
            "rate_limit.requests = 999999999\nrate_limit.verified_requests = 1000000000\n"
            f'channels.sms.tokens = ["{TOKEN}"]\nlogs.password = "{LOGS_PASSWORD}"\n{settings}\n'
        )
        self.config.chmod(0o600)

    @property
    def environment(self) -> dict[str, str]:
        """Where it keeps things."""
        return {"STATE_DIRECTORY": str(self.folder), "RUNTIME_DIRECTORY": str(self.folder)}

    def command(self, port: int, *, dispatch: bool) -> list[str]:
        """The command line of `serve`."""
        flags = [] if dispatch else ["--no-dispatch"]
        return [*COMMAND, "--config", str(self.config), "serve", "--port", str(port), *flags]

    def start(self, *, core: int | None, dispatch: bool, port: int | None = None) -> Server:
        """A daemon that listens."""
        port = port or free_port()
        return Server(
            self.command(port, dispatch=dispatch),
            port,
            core=core,
            output=self.folder / "output",
            environment=self.environment,
        )

    def copy_journal(self, to: Installation) -> None:
        """With what is only in its WAL yet."""
        with (
            closing(sqlite3.connect(self.journal)) as ours,
            closing(sqlite3.connect(to.journal)) as copy,
        ):
            ours.backup(copy)

    def count(self, table: str) -> int:
        """Rows of a table."""
        return self._number(f"SELECT count(*) FROM {table}")

    def entries(self, state: str) -> int:
        """Entries in a state; as cheap for millions as for one."""
        return self._number(f"SELECT coalesce(sum(total), 0) FROM tallies WHERE state = '{state}'")

    def wait_until_dispatched(self, number: int) -> None:
        """Until so many events are; says why others are held if that does not come."""
        try:
            wait_until(lambda: self.entries("done") >= number)
        except SystemExit as late:
            held = self.texts("SELECT DISTINCT held FROM entries WHERE held IS NOT NULL")
            done = f"{self.entries('done'):,} of {number:,} events dispatched"
            raise SystemExit("; ".join([f"{late}: {done}", *held])) from None

    def replies(self, route: str) -> int:
        """How many went out that way."""
        return self._number(f"SELECT count(*) FROM replies WHERE route = '{route}'")

    def texts(self, question: str) -> list[str]:
        """The one column that a question of the journal gives."""
        with closing(sqlite3.connect(f"file:{self.journal}?mode=ro", uri=True)) as journal:
            return [text for (text,) in journal.execute(question)]

    def agent_log_lines(self, event: str) -> int:
        """How often something is in the agents' log."""
        log = self.logs / "agents.log"
        if not log.exists():
            return 0
        with log.open() as lines:
            return sum(f'"event":"{event}"' in line for line in lines)

    def _number(self, question: str) -> int:
        with closing(sqlite3.connect(f"file:{self.journal}?mode=ro", uri=True)) as journal:
            (number,) = journal.execute(question).fetchone()
        return int(number)

    def must_hold(self, accepted: int, *, before: int = 0, repeated: int = 0) -> None:
        """Every 2xx is in the journal; raises `Void`."""
        must_be_kept(accepted, self.count("events") - before, repeated=repeated)
