"""Which host serves which attempt, and when hosts come and go."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from berinia_webhookd.model import AgentName, OutcomeKind
from berinia_webhookd.outbound import host_pool
from berinia_webhookd.outbound.contract import AgentUnavailable

from .agent_world import HostWorld, attempt, until, until_gone

AGENT = AgentName("Agent")
GATED = """
import os, pathlib, time

def handle(event):
    gate = pathlib.Path(event["data"]["body"])
    gate.with_suffix(".begun").touch()
    while not gate.exists():
        time.sleep(0.01)
    return {"response": f"old {os.getpid()}"}
"""


async def test_hosts_start_when_needed_and_are_used_again(hosts: HostWorld) -> None:
    """None before the first attempt, one for any number of attempts one after the other."""
    agents = hosts.open({AGENT: "friendly:pid"})
    assert hosts.processes() == {}
    pids = {(await attempt(agents, AGENT)).reply for _ in range(20)}
    assert len(pids) == 1
    assert len(hosts.processes()) == 2  # the host and its guardian


async def test_crashing_agents_start_no_storm_of_hosts(
    hosts: HostWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is over the allowance waits, and is served in the end."""
    starts = Starts()
    monkeypatch.setattr(host_pool, "AsyncLimiter", starts.of)
    agents = hosts.open({AGENT: "hostile:os_exit"}, "agents.max_hosts = 2")
    running = [asyncio.create_task(attempt(agents, AGENT)) for _ in range(2)]
    with capture_logs() as lines:
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        await until(lambda: starts.refused > 2)  # there is room for both at once
        assert [line["event"] for line in lines].count("agent_host.started") == 1
        starts.allowed = 1
        outcomes = await asyncio.gather(*running)
    assert {outcome.kind for outcome in outcomes} == {OutcomeKind.CRASH}
    assert [line["event"] for line in lines].count("agent_host.started") == 2


class Starts:
    """An allowance of starts that the clock does not refill."""

    allowed = 1
    refused = 0

    def of(self, most: float, seconds: float) -> Starts:
        """In place of a limiter's constructor."""
        assert (most, seconds) == (host_pool.STARTS_PER_SECOND, 1.0)
        return self

    def has_capacity(self) -> bool:
        self.refused += not self.allowed
        return self.allowed > 0

    async def acquire(self) -> None:
        self.allowed -= 1


async def test_a_crashing_agent_leaves_others_their_hosts(hosts: HostWorld) -> None:
    """It would take down whichever is idle, and the others would wait for new ones."""
    agents = hosts.open({AGENT: "friendly:pid", "Bad": "hostile:os_exit"}, "agents.max_hosts = 2")
    await attempt(agents, "Bad")
    home = (await attempt(agents, AGENT)).reply
    for _ in range(3):
        assert (await attempt(agents, "Bad")).kind is OutcomeKind.CRASH
        assert (await attempt(agents, AGENT)).reply == home


async def test_waiting_for_a_start_costs_one_timer(
    hosts: HostWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many wait, and however often hosts come back meanwhile."""
    monkeypatch.setattr(host_pool, "STARTS_PER_SECOND", 1)
    agents = hosts.open({AGENT: "friendly:pid"}, "agents.max_hosts = 30")
    loop = asyncio.get_running_loop()
    delays: list[float] = []
    call_later = loop.call_later

    def counted(delay: float, *arguments: Any, **more: Any) -> asyncio.TimerHandle:
        delays.append(delay)
        return call_later(delay, *arguments, **more)

    monkeypatch.setattr(loop, "call_later", counted)
    await asyncio.gather(*(attempt(agents, AGENT) for _ in range(30)))
    assert delays.count(1 / host_pool.STARTS_PER_SECOND) < 30


async def test_a_conversation_keeps_its_host(hosts: HostWorld) -> None:
    """Agents keep memory in themselves: whoever served a conversation last serves it again."""
    agents = hosts.open({AGENT: "friendly:Counting"}, "agents.max_hosts = 3")
    senders = [f"+3363998000{n}" for n in range(3)]
    first = await asyncio.gather(*(attempt(agents, AGENT, sender=sender) for sender in senders))
    home = [str(outcome.reply).split()[0] for outcome in first]
    assert len(set(home)) == 3
    for round_number in range(2, 6):
        for sender, pid in reversed(list(zip(senders, home, strict=True))):
            outcome = await attempt(agents, AGENT, sender=sender)
            assert outcome.reply == f"{pid} {round_number}"


async def test_never_more_hosts_than_allowed(hosts: HostWorld) -> None:
    """`agents.max_hosts` holds however much is asked at once; all is served."""
    agents = hosts.open({AGENT: "friendly:pid"}, "agents.max_hosts = 2")
    assert agents.capacity == 2
    many = [attempt(agents, AGENT, sender=f"+33639980{n:03}") for n in range(40)]
    outcomes = await asyncio.gather(*many)
    assert {outcome.kind for outcome in outcomes} == {OutcomeKind.SUCCESS}
    assert len({outcome.reply for outcome in outcomes}) <= 2
    assert len(hosts.processes()) <= 4


async def test_an_idle_host_makes_room_for_another_limit(hosts: HostWorld) -> None:
    """Agents with different memory limits never share a host; with room for one they take turns."""
    agents = hosts.open(
        {AGENT: "friendly:pid"},
        f"agents.max_hosts = 1\nagents.{AGENT}.memory_limit_bytes = {4 << 30}",
    )
    for _ in range(2):
        assert (await attempt(agents, AGENT)).kind is OutcomeKind.SUCCESS
        assert (await attempt(agents, "Friendly", "next")).reply == "next"
    assert hosts.restarts("room") == 0  # making room is no failure


async def test_an_idle_host_is_stopped(hosts: HostWorld) -> None:
    """After a while without work nothing is left; the next attempt starts anew."""
    agents = hosts.open({AGENT: "friendly:pid"}, "agents.host_idle_seconds = 0.2")
    before = await attempt(agents, AGENT)
    await until_gone(hosts.mark)
    after = await attempt(agents, AGENT)
    assert (after.kind, after.reply != before.reply) == (OutcomeKind.SUCCESS, True)


async def test_an_idle_host_may_tidy_up(hosts: HostWorld, tmp_path: Path) -> None:
    """It ends as programs do: exit handlers run."""
    (tmp_path / "tidy.py").write_text(
        "import atexit, pathlib\n"
        "atexit.register(pathlib.Path('tidied').touch)\n"
        "def handle(event): pass\n"
    )
    agents = hosts.open(
        {AGENT: "tidy:handle"}, f'agents.path = "{tmp_path}"\nagents.host_idle_seconds = 0.1'
    )
    await attempt(agents, AGENT)
    await until_gone(hosts.mark)
    await until((tmp_path / "tidied").exists)


async def test_a_reload_replaces_hosts_after_their_attempt(
    hosts: HostWorld, tmp_path: Path
) -> None:
    """What runs ends as it would; what comes next runs the new code."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "gated.py").write_text(GATED)
    path = f'agents.path = "{code}"'
    agents = hosts.open({AGENT: "gated:handle"}, path)
    gate = tmp_path / "gate"
    running = asyncio.create_task(attempt(agents, AGENT, str(gate)))
    await until(gate.with_suffix(".begun").exists)
    (code / "gated.py").write_text("def handle(event):\n    return {'response': 'new'}\n")
    agents.reconfigure(hosts.settings({AGENT: "gated:handle"}, path))
    assert (await attempt(agents, AGENT)).reply == "new"
    assert not running.done()
    gate.touch()
    assert str((await running).reply).startswith("old")
    for _ in range(3):
        assert (await attempt(agents, AGENT, sender="+33639980003")).reply == "new"
    await hosts.restarted("reload")


@pytest.mark.parametrize("hosts_allowed", [1, 2])
async def test_a_reload_throws_no_working_agent_away(
    hosts: HostWorld, tmp_path: Path, hosts_allowed: int
) -> None:
    """The host with the old code goes on until the new code can be loaded, over further reloads
    and whatever others do; it is not stopped as idle meanwhile.
    """
    (tmp_path / "steady.py").write_text("def handle(event):\n    return {'response': 'old'}\n")
    more = f'agents.path = "{tmp_path}"\nagents.max_hosts = {hosts_allowed}'
    targets = {AGENT: "steady:handle", "Other": "other:handle"}
    (tmp_path / "other.py").write_text("def handle(event):\n    return {'response': 'other'}\n")
    agents = hosts.open(targets, f"{more}\nagents.host_idle_seconds = 0.2")
    await agents.load(AGENT)
    (tmp_path / "steady.py").write_text("def handle(event):\n    return {'response': 'new'\n")
    for _ in range(2):
        agents.reconfigure(hosts.settings(targets, more), keep=[AGENT])
        with pytest.raises(AgentUnavailable, match=r"\nsteady.py:2: SyntaxError: '{' was never"):
            await agents.load(AGENT)
        assert agents.goes_on(AGENT)
        assert (await attempt(agents, AGENT)).reply == "old"
        await agents.load(AgentName("Other"))
        assert (await attempt(agents, "Other")).reply == "other"
        assert (await attempt(agents, AGENT)).reply == "old"
    (tmp_path / "steady.py").write_text("def handle(event):\n    return {'response': 'new'}\n")
    await agents.load(AGENT)
    assert not agents.goes_on(AGENT)
    assert (await attempt(agents, AGENT)).reply == "new"


async def test_new_hosts_outlive_those_that_they_replace(hosts: HostWorld, tmp_path: Path) -> None:
    """Whatever order agents are loaded in anew, each has a host to go on in at the next reload."""
    targets = {AGENT: "steady:handle", "Other": "steady:handle", "Third": "steady:handle"}
    names = [AgentName(name) for name in targets]
    (tmp_path / "steady.py").write_text("def handle(event):\n    return {'response': 'old'}\n")
    more = f'agents.path = "{tmp_path}"\nagents.max_hosts = 3'
    agents = hosts.open(targets, more)
    await asyncio.gather(*map(agents.load, names))
    for _ in range(3):
        agents.reconfigure(hosts.settings(targets, more), keep=names)
        assert all(map(agents.goes_on, names))
        await asyncio.gather(*map(agents.load, names))


async def test_what_goes_on_with_the_old_code_may_end(hosts: HostWorld, tmp_path: Path) -> None:
    """Once the host with it is gone, the agent is as one that cannot be loaded."""
    (tmp_path / "steady.py").write_text("import os\ndef handle(event):\n    os._exit(3)\n")
    more = f'agents.path = "{tmp_path}"'
    agents = hosts.open({AGENT: "steady:handle"}, more)
    await agents.load(AGENT)
    (tmp_path / "steady.py").write_text("broken =")
    agents.reconfigure(hosts.settings({AGENT: "steady:handle"}, more), keep=[AGENT])
    assert (await attempt(agents, AGENT)).kind is OutcomeKind.CRASH
    assert not agents.goes_on(AGENT)
    outcome = await attempt(agents, AGENT)
    assert (outcome.kind, "steady.py:1: SyntaxError" in str(outcome.error)) == ("unreachable", True)


async def test_a_host_that_ends_by_itself_is_replaced(hosts: HostWorld) -> None:
    """An idle host that is killed from outside is noticed; the next attempt does not fail."""
    agents = hosts.open({AGENT: "friendly:pid"})
    with capture_logs() as lines:
        await attempt(agents, AGENT)
        started = next(line for line in lines if line["event"] == "agent_host.started")
        os.kill(started["pid"], signal.SIGKILL)
        await until(lambda: any(line["event"] == "agent_host.killed" for line in lines))
    assert (await attempt(agents, AGENT)).kind is OutcomeKind.SUCCESS
    ended = next(line for line in lines if line["event"] == "agent_host.killed")
    assert (ended["pid"], ended["reason"]) == (started["pid"], "crash")
    assert "SIGKILL, perhaps for want of memory" in ended["how"]


async def test_a_host_without_its_guardian_gets_no_attempt(hosts: HostWorld) -> None:
    """It ends, too; until its last output is read, attempts go to others."""
    agents = hosts.open({AGENT: "friendly:pid"}, "agents.max_hosts = 2")
    ending = int(str((await attempt(agents, AGENT)).reply))
    (guardian,) = hosts.processes().keys() - {ending}
    os.kill(guardian, signal.SIGKILL)
    await until(lambda: has_closed_all(guardian) and has_closed_all(ending))  # it goes along
    for _ in range(3):
        await asyncio.sleep(0)  # in which the event loop reads the end of both sockets
    assert (await attempt(agents, AGENT)).kind is OutcomeKind.SUCCESS


def has_closed_all(pid: int) -> bool:
    """Whether a process has no descriptors any more, which ends later than its memory."""
    try:
        return not any(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return True  # it is gone


async def test_a_host_that_we_kill_lacked_no_memory(hosts: HostWorld, tmp_path: Path) -> None:
    """The line of a timeout sends nobody looking for another cause."""
    (tmp_path / "gated.py").write_text(GATED)
    agents = hosts.open({AGENT: "gated:handle"}, f'agents.path = "{tmp_path}"')
    with capture_logs() as lines:
        outcome = await attempt(agents, AGENT, str(tmp_path / "gate"), seconds=0.2)
        await until(lambda: any(line["event"] == "agent_host.killed" for line in lines))
    assert outcome.kind is OutcomeKind.TIMEOUT
    ended = next(line for line in lines if line["event"] == "agent_host.killed")
    assert ended["reason"] == "timeout"
    assert ended["how"] == "killed by signal 9 (SIGKILL)"


async def test_closing_ends_waiting_attempts(hosts: HostWorld, tmp_path: Path) -> None:
    """What waits for a host, or begins afterwards, is told that the daemon is stopping."""
    (tmp_path / "gated.py").write_text(GATED)
    agents = hosts.open(
        {AGENT: "gated:handle"}, f'agents.max_hosts = 1\nagents.path = "{tmp_path}"'
    )
    gate = tmp_path / "gate"
    running = asyncio.create_task(attempt(agents, AGENT, str(gate)))
    await until(gate.with_suffix(".begun").exists)
    waiting = asyncio.create_task(attempt(agents, AGENT))
    await asyncio.sleep(0)
    await agents.close()
    assert (await running).kind is OutcomeKind.CRASH
    for outcome in (await waiting, await attempt(agents, AGENT)):
        assert outcome.kind is OutcomeKind.UNREACHABLE
        assert "stopping" in (outcome.error or "")
    assert hosts.processes() == {}


async def test_a_cancelled_attempt_takes_its_host_along(hosts: HostWorld, tmp_path: Path) -> None:
    """Nobody knows what it would have done; the next attempt gets a fresh host."""
    (tmp_path / "gated.py").write_text(GATED)
    agents = hosts.open({AGENT: "gated:handle"}, f'agents.path = "{tmp_path}"')
    gate = tmp_path / "gate"
    running = asyncio.create_task(attempt(agents, AGENT, str(gate)))
    await until(gate.with_suffix(".begun").exists)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await until_gone(hosts.mark)
    gate.touch()
    assert (await attempt(agents, AGENT, str(gate))).kind is OutcomeKind.SUCCESS


ASKING = """
import os, pathlib, time

class Memory:
    asked = False

def ask(event):
    Memory.asked = True
    return {"response": "Répondez par 'oui'"}

def busy(event):
    gate = pathlib.Path(event["data"]["body"])
    gate.with_suffix(".begun").touch()
    while not gate.exists():
        time.sleep(0.01)

def answer(event):
    return {"response": "merci" if Memory.asked else "Pardon ?"}
"""
SHARED = "\n".join(f'agents.{name}.host = "berinia"' for name in ("Ask", "Busy", "Answer"))
TARGETS = {"Ask": "asking:ask", "Busy": "asking:busy", "Answer": "asking:answer"}


async def test_agents_with_one_word_share_one_memory(hosts: HostWorld, tmp_path: Path) -> None:
    """Also while another conversation keeps their host busy: the attempt waits for that one, where
    there would be room elsewhere; and what others do takes neither host nor memory.
    """
    (tmp_path / "asking.py").write_text(ASKING)
    more = f'agents.path = "{tmp_path}"\nagents.Other.target = "python:asking:answer"\n{SHARED}'
    agents = hosts.open(TARGETS, more)
    await attempt(agents, "Ask", sender="chat 1")
    gate = tmp_path / "gate"
    busy = asyncio.create_task(attempt(agents, "Busy", str(gate), sender="chat 2"))
    await until(gate.with_suffix(".begun").exists)
    waiting = asyncio.create_task(attempt(agents, "Answer", "oui", sender="chat 1"))
    assert (await attempt(agents, "Other", sender="chat 3")).reply == "Pardon ?"
    assert not waiting.done()
    gate.touch()
    assert (await busy).kind is OutcomeKind.SUCCESS
    assert (await waiting).reply == "merci"
    assert len(hosts.processes()) == 4  # theirs, the other agent's, and two guardians


async def test_room_is_made_last_where_a_memory_is_kept(hosts: HostWorld, tmp_path: Path) -> None:
    """An idle host that no word keeps goes first; where there is no other, all are served."""
    (tmp_path / "asking.py").write_text(ASKING)
    limit = f"agents.Large.memory_limit_bytes = {4 << 30}"
    large = f'agents.Large.target = "python:asking:answer"\n{limit}'
    more = f'agents.path = "{tmp_path}"\nagents.Other.target = "python:asking:answer"'
    agents = hosts.open(TARGETS, f"agents.max_hosts = 2\n{more}\n{large}\n{SHARED}")
    await attempt(agents, "Ask")
    for name in ("Other", "Large", "Other"):
        assert (await attempt(agents, name)).reply == "Pardon ?"
    assert (await attempt(agents, "Answer")).reply == "merci"
    agents.reconfigure(hosts.settings(TARGETS, f"agents.max_hosts = 1\n{more}\n{large}\n{SHARED}"))
    for name in ("Ask", "Other", "Answer"):
        assert (await attempt(agents, name)).kind is OutcomeKind.SUCCESS


async def test_an_agent_that_cannot_be_loaded_costs_the_others_no_memory(
    hosts: HostWorld, tmp_path: Path
) -> None:
    """It is tried elsewhere until it can be; then all of the word begin anew together."""
    (tmp_path / "asking.py").write_text(ASKING)
    (tmp_path / "broken.py").write_text("raise LookupError('not yet')\n")
    word = 'agents.Broken.host = "berinia"\nagents.Broken.target = "python:broken:handle"'
    agents = hosts.open(TARGETS, f'agents.path = "{tmp_path}"\n{SHARED}\n{word}')
    await attempt(agents, "Ask")
    for _ in range(3):
        with pytest.raises(AgentUnavailable, match="not yet"):
            await agents.load(AgentName("Broken"))
    assert (await attempt(agents, "Broken")).kind is OutcomeKind.UNREACHABLE
    assert (await attempt(agents, "Answer")).reply == "merci"
    (tmp_path / "broken.py").write_text("from asking import answer as handle\n")
    await agents.load(AgentName("Broken"))
    await attempt(agents, "Ask")
    assert (await attempt(agents, "Broken")).reply == "merci"


async def test_hosts_stay_where_idle_seconds_are_none(
    hosts: HostWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`agents.host_idle_seconds = 0` sets no timer."""
    agents = hosts.open({AGENT: "friendly:pid"}, "agents.host_idle_seconds = 0")
    before = await attempt(agents, AGENT)
    set_timers: list[float] = []
    monkeypatch.setattr(
        asyncio.get_running_loop(), "call_later", lambda delay, *_, **__: set_timers.append(delay)
    )
    assert (await attempt(agents, AGENT)).reply == before.reply
    monkeypatch.undo()
    assert 600 not in set_timers
    assert 0 not in set_timers
