"""Agents that cannot be loaded, and a journal that is damaged, locked, unreachable or behind."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from berinia_webhookd.findings import Finding, Level
from berinia_webhookd.journal.contract import Count, FileState, Guard, HeldBack, Statistics
from berinia_webhookd.journal.inspecting import glance, inspect_file
from berinia_webhookd.model import AgentName
from berinia_webhookd.status.findings.installation import Installation
from berinia_webhookd.status.findings.journal import (
    journal,
    of_companions,
    of_costs,
    of_counts,
    of_guards,
)
from berinia_webhookd.tools.doctor.installation import find
from tests.end_to_end.daemon import Daemon
from tests.full_disk import full_disk
from tests.ports import refusing_port
from tests.postgresql import Postgresql

from .conftest import make
from .reading import doctor

NO_MODULE = "import a_module_that_is_not_there\n"
FAILS = "class Recorder:\n    def run(self, input_data):\n        raise RuntimeError('no CRM')\n"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = make(tmp_path_factory.mktemp("running")).start()
    daemon.wait_for("agent_host.started")
    yield daemon
    daemon.close()


def journal_of(daemon: Daemon) -> Path:
    return daemon.folder / "state" / "journal.db"


def installation_of(daemon: Daemon) -> Installation:
    return find(daemon.config, daemon.environment, daemon.folder).installation


def test_all_is_well(running: Daemon) -> None:
    """Agents loaded, journal sound, nothing waiting."""
    report = doctor(running)
    assert {f["level"] for f in report.of("agents")} == {"ok"}
    assert [f["level"] for f in report.of("journal")] == ["ok", "ok"]


class TestAgents:
    def test_an_agent_that_cannot_be_imported(self, stopped: Daemon) -> None:
        """Of a running daemon: the reason that it found itself."""
        (stopped.agents / "recorder.py").write_text(NO_MODULE)
        stopped.start()
        stopped.wait_for("agent.unavailable")
        report = doctor(stopped)
        assert report.status == 1
        finding = report.one("agents", "wrong", "ResponseListenerAgent cannot be loaded on")
        assert "recorder.py:1: ModuleNotFoundError" in finding["what"]
        assert "check-config" in finding["fix"][1]

    def test_the_same_of_a_daemon_that_does_not_run(self, stopped: Daemon) -> None:
        """Then it is tried, and the exception shown; the others can be loaded."""
        (stopped.agents / "recorder.py").write_text(NO_MODULE)
        report = doctor(stopped)
        report.one("agents", "wrong", "ResponseListenerAgent", "a_module_that_is_not_there")
        report.one("agents", "ok", "MetaAgent")

    def test_an_agent_without_a_target(self, stopped: Daemon) -> None:
        """Nobody said where it is: the line that says so."""
        text = stopped.config.read_text()
        stopped.config.write_text(text.replace('agents.MetaAgent.target = "log:"', ""))
        doctor(stopped).one("agents", "wrong", "MetaAgent has no target", "agents.registry")
        stopped.start()
        stopped.wait_for("agent.unavailable")
        doctor(stopped).one("agents", "wrong", "MetaAgent has no target", "agents.registry")

    def test_nothing_is_loaded_beside_a_running_daemon(self, running: Daemon) -> None:
        """What an agent does when it is imported happens once, in the daemon."""
        imported = running.agents / "imported"
        (running.agents / "recorder.py").write_text(
            f"open({str(imported)!r}, 'a').write('x')\nclass Recorder:\n    run = print\n"
        )
        doctor(running)
        assert not imported.exists()


class TestJournal:
    def test_dead_entries(self, stopped: Daemon) -> None:
        """Their agent, how to see why, and how to try again."""
        (stopped.agents / "recorder.py").write_text(FAILS)
        stopped.start()
        text = f"http://127.0.0.1:{stopped.port}"
        assert stopped.run("send", "sms", "--to", text).returncode == 0
        stopped.wait_for("entry.dead")
        report = doctor(stopped)
        finding = report.one("journal", "wrong", "1 failed for good (ResponseListenerAgent)")
        assert "events list --state dead" in finding["fix"][0]
        assert "events replay --state dead" in finding["fix"][1]

    def test_what_was_saved_of_a_lost_journal(self, stopped: Daemon) -> None:
        """It is named until somebody has decided, with both commands."""
        journal_of(stopped).parent.mkdir(mode=0o700, exist_ok=True)
        saved = journal_of(stopped).with_name("journal.db.saved-20261130T101004Z")
        saved.touch()
        finding = doctor(stopped).one("journal", "wrong", str(saved))
        assert f"journal restore {saved}" in finding["fix"][0]
        assert f"journal discard {saved}" in finding["fix"][1]

    def test_messages_that_wait_for_long(self, running: Daemon) -> None:
        """Older than ten minutes: which agent's, how many."""
        now = datetime.now(UTC)
        old = now - timedelta(hours=3)
        counts = (Count("agent", "sms", "MetaAgent", "waiting", 7),)
        statistics = Statistics(counts, 0, {"MetaAgent": old}, {}, 0, 0, 0)
        (finding,) = of_counts(installation_of(running), statistics, now)
        assert finding.level is Level.WARNING
        assert "MetaAgent has waited 3 h; 7 are waiting" in finding.what

    def test_what_may_have_acted_is_not_to_be_repeated(self, running: Daemon) -> None:
        """It is told apart from what failed, and no line proposes to replay it."""
        counts = (Count("agent", "whatsapp", "MetaAgent", "dead", 3),)
        statistics = Statistics(counts, 0, {}, {"MetaAgent": 3}, 0, 0, 0)
        (finding,) = of_counts(installation_of(running), statistics, datetime.now(UTC))
        assert finding.level is Level.WRONG
        assert "3 failed, and may have acted all the same (MetaAgent)" in finding.what
        assert not any("replay" in line for line in finding.fix)

    def test_an_agent_that_keeps_failing(self, running: Daemon) -> None:
        """Three attempts in a row are enough, whatever state their messages are in."""
        statistics = Statistics((), 0, {}, {}, 0, 0, 0, failing_agents={"MetaAgent": 3})
        (finding,) = of_guards(statistics, {"MetaAgent": "Traceback …\nKeyError: 'id'"})
        assert finding.level is Level.WRONG
        assert "MetaAgent failed on its last 3 attempts" in finding.what
        assert finding.what.endswith(": KeyError: 'id'")
        assert "berinia-webhookd reload" in finding.fix[0]
        assert "events list --agent MetaAgent" in finding.fix[1]

    def test_what_guards_hold(self, running: Daemon) -> None:
        """How many conversations, since when, and how they go on; the breaker is said above."""
        held = {guard.value: HeldBack(2, 7200) for guard in Guard}
        found = list(of_guards(Statistics((), 0, {}, {}, 0, 0, 0, held=held), {}))
        assert [finding.level for finding in found] == [Level.WARNING] * 2
        budget, loop = found
        assert "2 conversations are held by a guard (budget), the oldest for 2 h" in budget.what
        assert "resume" in loop.fix[1]

    @pytest.mark.parametrize(("done", "costs", "said"), [(20, (), 1), (19, (), 0), (20, ("A",), 0)])
    def test_a_budget_of_an_agent_that_says_no_cost(
        self, running: Daemon, done: int, costs: tuple[str, ...], said: int
    ) -> None:
        """After some messages: it would never be spent."""
        settings = replace(running.settings.agents.of(AgentName("A")), daily_cost=5.0)
        agents = replace(running.settings.agents, by_name={AgentName("A"): settings})
        counts = (Count("agent", "sms", "A", "done", done),)
        statistics = Statistics(counts, 0, {}, {}, 0, 0, 0, agents_with_costs=costs)
        found = list(of_costs(agents, statistics))
        assert [one.subject for one in found] == ["agents.A.daily_cost"] * said
        assert all('"cost"' in one.fix[0] for one in found)

    def test_a_journal_that_somebody_locks(self, running: Daemon) -> None:
        """Another program writes and does not end."""
        with closing(sqlite3.connect(journal_of(running), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            report = doctor(running)
            other.execute("ROLLBACK")
        report.one("journal", "wrong", "cannot be written", "locked", "fuser")

    def test_a_glance_waits_for_nobody_who_writes(self, stopped: Daemon) -> None:
        """The console looks as often as people click."""
        path = journal_of(stopped.start())
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert glance(path, 0.0) == FileState(None, complete=False, refusal=None)
            other.execute("ROLLBACK")
        foreign = path.with_name("foreign.db")
        foreign.write_bytes(b"no journal" * 1000)
        assert glance(foreign, 0.0).damage == "file is not a database"

    def test_a_damaged_journal(self, stopped: Daemon) -> None:
        """Pages overwritten: found, with the way to save what is left."""
        stopped.start()
        assert stopped.stop() == 0
        path = journal_of(stopped)
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * 8192)
        report = doctor(stopped)
        assert report.status == 1
        finding = report.one("journal", "wrong")
        assert "is damaged: " in finding["what"]
        assert "Page 2" in finding["what"]
        assert ".dump" in finding["fix"][0]

    def test_a_full_disk_is_no_damage(self, stopped: Daemon) -> None:
        """Nobody should mend a file that is whole."""
        stopped.start()
        assert stopped.stop() == 0
        with full_disk():
            state = inspect_file(journal_of(stopped), 5.0)
        assert state.damage is None
        assert state.refusal == "disk I/O error"

    def test_no_journal_at_all(self, stopped: Daemon) -> None:
        """Before the first start that is no fault; and doctor makes none."""
        report = doctor(stopped)
        report.one("journal", "note", "does not exist yet")
        assert not journal_of(stopped).exists()

    def test_a_journal_that_was_deleted(self, running: Daemon) -> None:
        """What the daemon writes now is lost, as long as it has not noticed."""
        found = installation_of(running)
        gone = journal_of(running).with_name("gone.db")
        installation = replace(found, journal=replace(found.journal, file=gone))

        async def findings() -> list[Finding]:
            return [one async for one in journal(installation)]

        (finding,) = asyncio.run(findings())
        assert finding.level is Level.WRONG
        assert "although the daemon runs" in finding.what

    def test_a_journal_that_others_can_read(self, running: Daemon) -> None:
        """It holds what people wrote."""
        journal_of(running).chmod(0o644)
        report = doctor(running)
        journal_of(running).chmod(0o600)
        report.one("journal", "warning", "can be read by other users", "chmod 600")

    def test_a_journal_of_another_user(self, running: Daemon) -> None:
        """After a visit of root, say: the daemon cannot write it."""
        of_another = replace(installation_of(running), user=12_345)
        found = list(of_companions(of_another, journal_of(running)))
        assert found[0].level is Level.WRONG
        assert found[0].fix[0].startswith("`chown 12345 ")

    def test_a_look_that_takes_too_long_ends(self, running: Daemon) -> None:
        """A huge file is looked at only for a while; that is no damage."""
        state = inspect_file(journal_of(running), -1.0)
        assert state.damage is None
        assert state.refusal is None


async def test_postgresql_without_fsync(postgresql: Postgresql, stopped: Daemon) -> None:
    """A server that loses what it confirmed is wrong, whatever else it does."""
    url = postgresql.url(await postgresql.new_database())
    stopped.config.write_text(f'journal.url = "{url}"\n{stopped.config.read_text()}')
    await asyncio.to_thread(stopped.start)
    report = await asyncio.to_thread(doctor, stopped)
    finding = report.one("journal", "wrong", "fsync = off")
    assert "ALTER SYSTEM SET fsync = on;" in finding["fix"]


def test_postgresql_that_is_unreachable(stopped: Daemon, tmp_path: Path) -> None:
    """Said once, without the password; the other checks go on."""
    url = f"postgresql://postgres:hidden-word@/berinia?host={tmp_path}"
    stopped.config.write_text(f'journal.url = "{url}"\n{stopped.config.read_text()}')
    report = doctor(stopped)
    assert len([f for f in report.of("journal") if f["level"] == "wrong"]) == 1
    finding = report.one("journal", "wrong", "postgresql:///berinia", "No such file or directory")
    assert "systemctl status postgresql" in finding["fix"][0]
    assert "hidden-word" not in str(report.document)
    assert report.of("console")


def test_a_postgresql_that_refuses_connections(stopped: Daemon) -> None:
    """By its address it can be asked from here."""
    with refusing_port() as port:
        url = f"postgresql://postgres:hidden-word@127.0.0.1:{port}/berinia"
        stopped.config.write_text(f'journal.url = "{url}"\n{stopped.config.read_text()}')
        finding = doctor(stopped).one("journal", "wrong", "Connect call failed")
    assert f"`pg_isready -d 'postgresql://127.0.0.1:{port}/berinia'`" in finding["fix"][-1]


async def test_postgresql_that_goes_down(stopped: Daemon) -> None:
    """Under a running daemon: one finding with the database's reason, not two that name each
    other.
    """
    server = Postgresql()
    url = server.url(await server.new_database())
    stopped.config.write_text(f'journal.url = "{url}"\n{stopped.config.read_text()}')
    await asyncio.to_thread(stopped.start)
    server.close()
    await asyncio.to_thread(stopped.wait_for, "journal.degraded")
    report = await asyncio.to_thread(doctor, stopped)
    assert report.wrong == {"journal"}
    finding = report.one("journal", "wrong", "postgresql://")
    assert "systemctl status postgresql" in finding["fix"][0]
    assert finding["why"] == "nothing can be accepted: providers get 503"


def test_a_journal_without_a_daemon(running: Daemon) -> None:
    """The same journal is looked at in the same way."""
    without = replace(installation_of(running), process=None)
    findings = asyncio.run(_of_journal(without))
    assert {finding.level for finding in findings} == {Level.OK}


async def _of_journal(installation: Installation) -> list[Finding]:
    return [finding async for finding in journal(installation)]
