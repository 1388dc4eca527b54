"""Agents that hang, crash, leak or burn: each costs its own attempt and its own host, no more."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from berinia_webhookd.model import AgentName, OutcomeKind
from berinia_webhookd.outbound.contract import AgentUnavailable

from .agent_world import AGENTS, PATIENCE_SECONDS, HostWorld, attempt, until, until_gone

HOSTILE = "Hostile"
BRIEF_SECONDS = 0.5
LIMIT_BYTES = 512 << 20
# Hosts are shared only among agents with the same limit.
HOST_OF_ITS_OWN = f"agents.Hostile.memory_limit_bytes = {4 << 30}"


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("hang", OutcomeKind.TIMEOUT, "no answer within 0.5 s"),
        ("hang_async", OutcomeKind.TIMEOUT, "no answer within 0.5 s"),
        ("spin", OutcomeKind.TIMEOUT, "no answer within 0.5 s"),
        ("stop_itself", OutcomeKind.TIMEOUT, "no answer within 0.5 s"),
        ("ignore_signals", OutcomeKind.TIMEOUT, "no answer within 0.5 s"),
        ("fork_and_hang", OutcomeKind.TIMEOUT, "no answer within 0.5 s"),
        ("fork_session_and_hang", OutcomeKind.TIMEOUT, "no answer within 0.5 s"),
        ("leave_a_session_and_kill_guardian", OutcomeKind.CRASH, "its host ended"),
        ("stop_guardian_and_hang", OutcomeKind.TIMEOUT, "no answer within 0.5 s"),
        ("stop_guardian_and_exit", OutcomeKind.CRASH, "exit code 6"),
        ("os_exit", OutcomeKind.CRASH, "exit code 3"),
        ("segfault", OutcomeKind.CRASH, "SIGSEGV"),
        ("kill_parent", OutcomeKind.CRASH, "ended for a reason unknown"),
        ("fork_and_kill_parent", OutcomeKind.CRASH, "ended for a reason unknown"),
        ("close_descriptors", OutcomeKind.CRASH, "exit code 70"),
        ("write_into_socket", OutcomeKind.CRASH, "wrote into the socket"),
        ("fork_session_and_exit", OutcomeKind.CRASH, "exit code 4"),
        ("start_program_and_exit", OutcomeKind.CRASH, "exit code 5"),
    ],
)
async def test_what_an_agent_breaks_is_its_own_host(
    hosts: HostWorld, name: str, kind: OutcomeKind, reason: str
) -> None:
    """The attempt ends with its kind and reason, every process below its host is gone, and
    another agent's attempts, before and after, do not notice.
    """
    agents = hosts.open({HOSTILE: f"hostile:{name}"}, HOST_OF_ITS_OWN)
    assert (await attempt(agents, "Friendly")).kind is OutcomeKind.SUCCESS
    bystander = frozenset(hosts.processes())
    seconds = BRIEF_SECONDS if kind is OutcomeKind.TIMEOUT else PATIENCE_SECONDS
    hostile = asyncio.create_task(attempt(agents, HOSTILE, seconds=seconds))
    while not hostile.done():
        during = await attempt(agents, "Friendly", "meanwhile")
        assert (during.kind, during.reply) == (OutcomeKind.SUCCESS, "meanwhile")
    outcome = hostile.result()
    assert outcome.kind is kind
    assert reason in (outcome.error or "")
    await until_gone(hosts.mark, but=bystander)
    await hosts.restarted("timeout" if kind is OutcomeKind.TIMEOUT else "crash")
    assert bystander == hosts.processes().keys()
    assert (await attempt(agents, "Friendly")).kind is OutcomeKind.SUCCESS


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sys_exit", "SystemExit: I am done with this"),
        ("base_exception", "Unusual: beyond all exceptions"),
        ("unspeakable_exception", "Unspeakable"),
        ("recurse", "RecursionError"),
    ],
)
async def test_what_an_agent_raises_is_an_exception(
    hosts: HostWorld, name: str, reason: str
) -> None:
    """Whatever it is, it is recorded with its traceback, and the host serves the next."""
    agents = hosts.open({HOSTILE: f"hostile:{name}"})
    outcome = await attempt(agents, HOSTILE)
    assert outcome.kind is OutcomeKind.EXCEPTION
    assert reason in (outcome.error or "")
    assert "hostile.py" in (outcome.error or "")
    assert "agent_host.py" not in (outcome.error or "")
    running = hosts.processes().keys()
    assert (await attempt(agents, "Friendly", "next")).reply == "next"
    assert hosts.processes().keys() == running


@pytest.mark.parametrize(
    ("name", "reply"),
    [
        ("half_a_line", "half"),
        ("close_output", "silent"),
        ("break_streams", "streams broken"),
        ("fork_session_and_return", "left one behind"),
        ("fork_and_return_twice", "from one of two"),
        ("endless_threads", "threads left"),
        ("stop_guardian", "nobody watches"),
        ("no_json", "still fine"),
        ("no_dict", None),
        ("endless_nesting", "nested"),
        ("remove_log_handlers", "logging is gone"),
        ("change_the_world", "changed"),
    ],
)
async def test_bad_manners_are_no_failure(hosts: HostWorld, name: str, reply: str | None) -> None:
    """An agent that returns has succeeded, whatever it leaves behind; the same host goes on, and
    when it ends everything left behind ends with it (the fixture looks).
    """
    agents = hosts.open({HOSTILE: f"hostile:{name}"})
    for _ in range(2):
        outcome = await attempt(agents, HOSTILE)
        assert (outcome.kind, outcome.reply) == (OutcomeKind.SUCCESS, reply)
    assert (await attempt(agents, "Friendly", "next")).reply == "next"
    assert hosts.restarts("crash") == 0


async def test_memory_is_bounded(hosts: HostWorld) -> None:
    """Over `memory_limit_bytes` the attempt fails, and the host is replaced with all it holds."""
    agents = hosts.open(
        {HOSTILE: "hostile:fill_memory"}, f"agents.Hostile.memory_limit_bytes = {LIMIT_BYTES}"
    )
    outcome = await attempt(agents, HOSTILE)
    assert outcome.kind is OutcomeKind.EXCEPTION
    assert "MemoryError" in (outcome.error or "")
    await until_gone(hosts.mark)
    await hosts.restarted("memory")


async def test_leaked_descriptors_cost_no_other_attempt(hosts: HostWorld) -> None:
    """A host in which nothing can be opened any more is replaced before the next attempt."""
    agents = hosts.open({HOSTILE: "hostile:leak_descriptors", "Where": "friendly:where"})
    assert "Too many open files" in ((await attempt(agents, HOSTILE)).error or "")
    await hosts.restarted("descriptors")
    assert (await attempt(agents, "Where")).kind is OutcomeKind.SUCCESS


async def test_lowered_limits_cost_no_other_attempt(hosts: HostWorld, tmp_path: Path) -> None:
    """What an agent lowers for its process can never be raised again: it gets a new one."""
    agents = hosts.open({HOSTILE: "hostile:lower_limits", "Writer": "friendly:write"})
    assert (await attempt(agents, HOSTILE)).kind is OutcomeKind.SUCCESS
    await hosts.restarted("limits")
    written = await attempt(agents, "Writer", str(tmp_path / "file"))
    assert written.kind is OutcomeKind.SUCCESS


async def test_limits_that_an_import_lowers_are_the_agents_own(
    hosts: HostWorld, tmp_path: Path
) -> None:
    """It keeps its host from then on, and others get none that it was loaded in."""
    agents = hosts.open({"Modest": "modest:handle", "Writer": "friendly:write"})
    homes = {(await attempt(agents, "Modest")).reply for _ in range(3)}
    written = await attempt(agents, "Writer", str(tmp_path / "file"))
    assert written.kind is OutcomeKind.SUCCESS
    assert len(homes) == 1
    assert written.reply not in homes
    assert hosts.restarts("limits") == 0


async def test_a_folder_that_is_gone_is_a_failure_of_the_machine(
    hosts: HostWorld, tmp_path: Path
) -> None:
    """No agent was called, so its schedule is not used up; a new host begins where it is again."""
    folder = tmp_path / "agents"
    folder.mkdir()
    (folder / "here.py").write_text("def handle(event):\n    return {'response': 'here'}\n")
    agents = hosts.open({"Here": "here:handle"}, f'agents.path = "{folder}"')
    assert (await attempt(agents, "Here")).reply == "here"
    folder.rename(tmp_path / "moved")
    gone = await attempt(agents, "Here")
    assert (gone.kind, gone.uses_schedule) == (OutcomeKind.UNREACHABLE, False)
    assert str(folder) in (gone.error or "")
    await hosts.restarted("folder")
    (tmp_path / "moved").rename(folder)
    assert (await attempt(agents, "Here")).reply == "here"


@pytest.mark.parametrize("answer", ["{}", "7", "no JSON", '{"shape": "round"}', '{"failed": 1}'])
async def test_an_import_that_answers_in_the_hosts_place(
    hosts: HostWorld, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """The agent is unavailable, whatever it says, and the others are served."""
    monkeypatch.setenv("FORGED_ANSWER", answer)
    agents = hosts.open({"Forger": "forged_answers:handle"})
    with pytest.raises(AgentUnavailable, match="wrote into the socket"):
        await agents.load(AgentName("Forger"))
    assert (await attempt(agents, "Friendly")).kind is OutcomeKind.SUCCESS


async def test_megabytes_of_output_cost_little(hosts: HostWorld) -> None:
    """What an agent prints is logged up to a bound, and the rest is counted."""
    agents = hosts.open({HOSTILE: "hostile:print_megabytes"})
    with capture_logs() as lines:
        outcome = await attempt(agents, HOSTILE)
    assert outcome.reply == "said a lot"
    said = [line for line in lines if line["event"] == "agent.output"]
    logged = sum(len(str(line.get("output", ""))) for line in said)
    left_out = sum(line.get("left_out_bytes", 0) for line in said)
    assert 100_000 < logged < 1 << 20
    assert logged + left_out == pytest.approx(8192 * 1000 + (4 << 20), rel=0.01)


async def test_half_a_line_is_logged_as_its_own(hosts: HostWorld) -> None:
    """Output without a line's end belongs to the attempt that wrote it, not to the next."""
    agents = hosts.open({HOSTILE: "hostile:half_a_line"})
    with capture_logs() as lines:
        for number in (1, 2):
            await attempt(agents, HOSTILE, attempt=number)
    said = [line for line in lines if line["event"] == "agent.output"]
    assert [(line["output"], line["attempt"]) for line in said] == [
        ("half a li", 1),
        ("half a li", 2),
    ]


async def test_each_attempt_begins_in_the_agents_folder(hosts: HostWorld) -> None:
    """An agent that changed directory does not move the next one."""
    agents = hosts.open({HOSTILE: "hostile:change_folder", "Where": "friendly:where"})
    assert [(await attempt(agents, HOSTILE)).reply for _ in range(2)] == [str(AGENTS)] * 2
    assert (await attempt(agents, "Where")).reply == str(AGENTS)


async def test_a_huge_answer_is_cut(hosts: HostWorld) -> None:
    """An answer of many megabytes does not grow in the daemon."""
    agents = hosts.open({HOSTILE: "hostile:huge_answer"})
    outcome = await attempt(agents, HOSTILE)
    assert outcome.kind is OutcomeKind.SUCCESS
    assert set(outcome.reply or "") == {"é"}
    assert len(outcome.reply or "") <= 1 << 20


async def test_broken_text_is_replaced(hosts: HostWorld) -> None:
    """What no JSON can hold arrives as the nearest text."""
    agents = hosts.open({HOSTILE: "hostile:broken_text"})
    assert (await attempt(agents, HOSTILE)).reply == "broken ? text"


async def test_a_hanging_agent_blocks_nobody_for_as_long_as_it_hangs(
    hosts: HostWorld, tmp_path: Path
) -> None:
    """Others are served while it hangs; closing ends it."""
    agents = hosts.open({HOSTILE: "hostile:hang_with_a_sign"})
    sign = tmp_path / "hanging"
    hanging = asyncio.create_task(attempt(agents, HOSTILE, str(sign)))
    await until(sign.exists)
    for number in range(20):
        assert (await attempt(agents, "Friendly", str(number))).reply == str(number)
    assert not hanging.done()
    await agents.close()
    assert (await hanging).kind is OutcomeKind.CRASH
    await until_gone(hosts.mark)


async def test_a_slow_import_costs_the_attempt_nothing(
    hosts: HostWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing an agent may take longer than its attempts may, and others go on meanwhile."""
    monkeypatch.setenv("SLOW_IMPORT_SECONDS", "1.5")
    agents = hosts.open({"Slow": "slow_import:handle"})
    slow = asyncio.create_task(attempt(agents, "Slow", seconds=1))
    while not slow.done():
        assert (await attempt(agents, "Friendly", "meanwhile")).reply == "meanwhile"
    assert slow.result().reply == "at last"


async def test_an_import_that_never_ends_is_ended(hosts: HostWorld) -> None:
    """The agent is then unavailable, with the reason; its host is gone."""
    agents = hosts.open(
        {"Slow": "slow_import:handle"},
        f"agents.Slow.timeout_seconds = {BRIEF_SECONDS}",
        load_seconds=BRIEF_SECONDS,
    )
    with pytest.raises(AgentUnavailable, match="not loaded within"):
        await agents.load(AgentName("Slow"))
    await until_gone(hosts.mark)
    await hosts.restarted("timeout")
    assert (await attempt(agents, "Friendly")).kind is OutcomeKind.SUCCESS
