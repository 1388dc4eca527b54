"""The fork server is replaced whenever it fails, and never stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from berinia_webhookd.model import AgentName, OutcomeKind
from berinia_webhookd.outbound import fork_server, host_pool
from berinia_webhookd.outbound.contract import AgentUnavailable

from .agent_world import PATIENCE_SECONDS, HostWorld, attempt, marked_processes, until

AGENT = AgentName("Agent")
SENDER = "+33639980009"


def fork_servers(hosts: HostWorld) -> list[int]:
    return list(marked_processes(hosts.mark, fork_server=True))


def descriptors() -> set[int]:
    """What this process has open, but for the listing itself."""
    numbers = [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]
    return set(filter(is_open, numbers))


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


async def test_its_hosts_stay_in_its_session(hosts: HostWorld) -> None:
    """Where sessions share the CPU, all agents together weigh no more than the daemon."""
    agents = hosts.open({AGENT: "shapes:surroundings"}, "agents.max_hosts = 2")
    answers = await asyncio.gather(*(attempt(agents, AGENT, sender=SENDER) for _ in range(8)))
    found = [json.loads(answer.reply or "") for answer in answers]
    (leader,) = fork_servers(hosts)
    assert {host["session"] for host in found} == {leader}
    assert all(host["group"] for host in found)  # its own, so that its end is nobody else's


async def test_a_killed_one_is_replaced(hosts: HostWorld) -> None:
    """Nobody notices: the host at hand goes on, and the next one comes from a new fork server."""
    agents = hosts.open({AGENT: "friendly:pid"}, "agents.max_hosts = 2")
    first = await attempt(agents, AGENT)
    (killed,) = fork_servers(hosts)
    os.kill(killed, signal.SIGKILL)
    await until(lambda: not fork_servers(hosts))
    answers = await asyncio.gather(*(attempt(agents, AGENT, sender=SENDER) for _ in range(20)))
    assert {answer.kind for answer in answers} == {OutcomeKind.SUCCESS}
    pids = {answer.reply for answer in answers}
    assert first.reply in pids
    assert len(pids) == 2
    assert killed not in fork_servers(hosts)


async def test_a_stopped_one_is_replaced(hosts: HostWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent may stop whatever it finds: one attempt finds no host, the next one does."""
    agents = hosts.open({AGENT: "friendly:pid"}, "agents.max_hosts = 2")
    host = int(str((await attempt(agents, AGENT)).reply))
    (stopped,) = fork_servers(hosts)
    os.kill(stopped, signal.SIGSTOP)
    os.kill(host, signal.SIGKILL)
    await hosts.restarted("crash")  # so that no attempt is given to it
    with monkeypatch.context() as impatient:
        impatient.setattr(host_pool, "START_SECONDS", 0.5)
        failed = await attempt(agents, AGENT)
    assert failed.kind is OutcomeKind.UNREACHABLE
    assert "not ready within 0.5 s" in str(failed.error)
    assert (await attempt(agents, AGENT)).kind is OutcomeKind.SUCCESS


async def test_one_that_gets_no_time_is_waited_for(
    hosts: HostWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new one would begin from the start, on a machine that is busy anyway."""
    sign = tmp_path / "go on"
    (tmp_path / "sitecustomize.py").write_text(
        f"import os\nwhile not os.access({str(sign)!r}, os.F_OK):\n    pass\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    agents = hosts.open({AGENT: "friendly:pid"})
    with monkeypatch.context() as impatient:
        impatient.setattr(host_pool, "START_SECONDS", 0.5)
        assert (await attempt(agents, AGENT)).kind is OutcomeKind.UNREACHABLE
    (slow,) = hosts.processes()
    sign.touch()
    assert (await attempt(agents, AGENT)).kind is OutcomeKind.SUCCESS
    assert fork_servers(hosts) == [slow]


async def test_a_stopped_one_does_not_keep_the_daemon(
    hosts: HostWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing ends, though a host is still to be made and nobody waits for it any more."""
    monkeypatch.setattr(fork_server, "GONE_SECONDS", 0.5)
    agents = hosts.open({AGENT: "hostile:os_exit"})
    await attempt(agents, AGENT)
    (stopped,) = fork_servers(hosts)
    os.kill(stopped, signal.SIGSTOP)
    try:
        starting = asyncio.create_task(attempt(agents, AGENT))
        await asyncio.sleep(0)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await agents.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(stopped, signal.SIGKILL)
    assert not fork_servers(hosts)


async def test_no_descriptor_is_lost_where_there_are_too_few(hosts: HostWorld) -> None:
    """However many are free: the attempt finds no host, and leaves as many as there were."""
    agents = hosts.open({AGENT: "friendly:pid"})
    await attempt(agents, AGENT)  # what is opened once and kept
    agents.reconfigure(hosts.settings({AGENT: "friendly:pid"}))
    await hosts.restarted("reload")  # its descriptors are closed by then
    await until(lambda: not hosts.processes() and not fork_servers(hosts))
    for free in range(16):
        before = descriptors()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        unused = [number for number in range(len(before) + free + 1) if number not in before]
        resource.setrlimit(resource.RLIMIT_NOFILE, (unused[free], limits[1]))
        try:
            outcome = await attempt(agents, AGENT)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert outcome.kind is OutcomeKind.UNREACHABLE
        assert "Too many open files" in str(outcome.error)
        assert descriptors() == before
    assert (await attempt(agents, AGENT)).kind is OutcomeKind.SUCCESS


async def test_what_is_installed_later_is_found(
    hosts: HostWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `pip install --editable`: only a new interpreter has what came into its path."""
    late = tmp_path / "late"
    (tmp_path / "sitecustomize.py").write_text(
        f"import os, sys\nif os.path.isdir({str(late)!r}):\n    sys.path.append({str(late)!r})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    agents = hosts.open({AGENT: "installed:handle"})
    with pytest.raises(AgentUnavailable, match="installed"):
        await agents.load(AGENT)
    late.mkdir()
    (late / "installed.py").write_text("def handle(event):\n    return {'response': 'here'}\n")
    await agents.load(AGENT)
    assert (await attempt(agents, AGENT)).reply == "here"


async def test_it_ends_with_its_last_host(hosts: HostWorld) -> None:
    """An idle daemon is one process; a crash leaves the fork server for the next host."""
    agents = hosts.open(
        {AGENT: "friendly:pid", "Bad": "hostile:os_exit"}, "agents.host_idle_seconds = 0.5"
    )
    assert (await attempt(agents, "Bad")).kind is OutcomeKind.CRASH
    (before,) = fork_servers(hosts)
    await attempt(agents, AGENT)
    assert fork_servers(hosts) == [before]
    await until(lambda: not fork_servers(hosts))
    assert (await attempt(agents, AGENT)).kind is OutcomeKind.SUCCESS
    await agents.close()
    assert not fork_servers(hosts)


async def test_a_reload_starts_the_interpreter_anew(hosts: HostWorld) -> None:
    """Another environment may have been configured, or another version installed in it."""
    agents = hosts.open({AGENT: "friendly:pid"})
    await attempt(agents, AGENT)
    before = fork_servers(hosts)
    agents.reconfigure(hosts.settings({AGENT: "friendly:pid"}))
    with capture_logs() as lines:
        assert (await attempt(agents, AGENT)).kind is OutcomeKind.SUCCESS
    assert any(line["event"] == "agent_host.started" for line in lines)
    await until(lambda: len(fork_servers(hosts)) == 1)
    assert fork_servers(hosts) != before


async def test_hosts_work_where_priorities_may_not_be_changed(
    hosts: HostWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a filter of system calls agents are not behind the daemon, which is said, but work."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "def refuse(*_):\n    raise PermissionError(1, 'Operation not permitted')\n"
        "os.nice = refuse\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    agents = hosts.open({AGENT: "friendly:pid"})
    with capture_logs() as lines:
        assert (await attempt(agents, AGENT)).kind is OutcomeKind.SUCCESS
        await agents.close()
    said = [line["output"] for line in lines if line["event"] == "agent.output"]
    assert said == ["agent_host: agents cannot be put behind the daemon: Operation not permitted"]
