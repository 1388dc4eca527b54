"""What becomes of an entry after an attempt."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berinia_webhookd.channels.catalogue import KINDS
from berinia_webhookd.config.load import load
from berinia_webhookd.journal.contract import Settlement
from berinia_webhookd.model import (
    AgentName,
    ChannelName,
    Conversation,
    Entry,
    EntryId,
    EntryKind,
    EntryState,
    Event,
    EventId,
    Outcome,
    OutcomeKind,
    Word,
)
from berinia_webhookd.outbound.retry_policy import RetryPolicies, RetryPolicy

NOW = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = RetryPolicy(
    timeout_seconds=60,
    schedule_seconds=(5, 30, 120),
    retry_on=frozenset({OutcomeKind.ERROR, OutcomeKind.TIMEOUT, OutcomeKind.CRASH}),
    order_hold_seconds=300,
)


def entry(*, retries: int = 0, channel: str = "sms") -> Entry:
    name = ChannelName(channel)
    event = Event(
        channel=name,
        agent=AgentName("Agent"),
        conversation=Conversation(name, "1", "2"),
        digest=bytes(32),
        received_at=NOW,
        sender="1",
        recipient="2",
        body="",
    )
    return Entry(
        id=EntryId(1),
        event_id=EventId("v"),
        kind=EntryKind.AGENT,
        agent=event.agent,
        conversation_id="c",
        attempt=retries + 1,
        retries=retries,
        event=event,
    )


def settlement(outcome: Outcome, *, retries: int = 0) -> Settlement:
    return POLICY.settle(entry(retries=retries), outcome, 0.1, random=lambda: 0.5)


def test_success_is_done() -> None:
    """A return value is success."""
    assert settlement(Outcome(OutcomeKind.SUCCESS)).state is EntryState.DONE


@pytest.mark.parametrize("retries", [0, 3])
def test_a_failure_of_the_machine_uses_up_nothing(retries: int) -> None:
    """The agent was not called, so neither its schedule nor `retry_on` is asked."""
    failed = Outcome(OutcomeKind.UNREACHABLE, uses_schedule=False)
    done = settlement(failed, retries=retries)
    assert (done.state, done.retries) == (EntryState.WAITING, retries)
    assert done.due_in_seconds == 30


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_a_failure_waits_for_its_step_of_the_schedule(retries: int) -> None:
    """Each failure uses up one step."""
    done = settlement(Outcome(OutcomeKind.ERROR), retries=retries)
    assert done.state is EntryState.WAITING
    assert done.retries == retries + 1
    assert done.due_in_seconds == POLICY.schedule_seconds[retries]


def test_after_the_last_step_it_is_dead() -> None:
    """The schedule ends."""
    assert settlement(Outcome(OutcomeKind.ERROR), retries=3).state is EntryState.DEAD


@pytest.mark.parametrize("kind", [OutcomeKind.EXCEPTION, OutcomeKind.REJECTED])
def test_a_kind_that_is_not_retried_is_dead_at_once(kind: OutcomeKind) -> None:
    """Only the kinds in `retry_on` are tried again."""
    assert settlement(Outcome(kind)).state is EntryState.DEAD


def test_retry_after_is_honoured_up_to_an_hour() -> None:
    """An agent that asks for time gets it, within reason, and never less than the schedule."""
    asked = [
        settlement(Outcome(OutcomeKind.ERROR, retry_after_seconds=seconds)).due_in_seconds
        for seconds in (1, 600, 1e9)
    ]
    assert asked == [5, 600, 3600]


def test_only_a_failure_that_is_tried_again_holds_its_conversation_back() -> None:
    """For as long as is configured; the journal counts it from the first failure."""
    assert settlement(Outcome(OutcomeKind.ERROR)).hold_seconds == 300
    assert settlement(Outcome(OutcomeKind.SUCCESS)).hold_seconds is None
    assert settlement(Outcome(OutcomeKind.ERROR), retries=3).hold_seconds is None


@given(st.floats(0, 1, exclude_max=True))
def test_jitter_stays_within_a_fifth(dice: float) -> None:
    """Retries are spread by at most 20 % to either side."""
    done = POLICY.settle(entry(), Outcome(OutcomeKind.ERROR), 0.1, random=lambda: dice)
    assert done.due_in_seconds is not None
    assert 4 <= done.due_in_seconds <= 6


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("agents.Agent.retry_schedule_seconds = [1]", (1,)),
        ("agents.defaults.retry_schedule_seconds = [1]", (1,)),
        ("agents.defaults.retry_schedule_seconds = [1]\nagents.Agent.timeout_seconds = 9", (1,)),
        ("agents.Agent.retry_schedule_seconds = []", ()),
        ("agents.Agent.retry_schedule_seconds = [1]\nchannels.sms.retry_schedule_seconds = []", ()),
        (
            "agents.Agent.retry_schedule_seconds = []\nchannels.sms.retry_schedule_seconds = [1]",
            (1,),
        ),
        ("", (5, 30, 120, 600, 3600, 10_800, 28_800)),
    ],
)
def test_the_channels_schedule_wins_over_the_agents(
    tmp_path: Path, text: str, schedule: tuple[float, ...]
) -> None:
    """Then the agent's, the one of all agents, the kind's; an empty one means never again."""
    assert schedule_of(entry(), tmp_path, text) == schedule


BOT = '[channels.bot]\nkind = "berinia-whatsapp"\nagent = "Agent"\n'


@pytest.mark.parametrize(
    ("channel", "text", "schedule"),
    [
        ("whatsapp", "", (2, 10, 30)),
        ("bot", BOT, (2, 10, 30)),
        ("whatsapp", "agents.defaults.retry_schedule_seconds = [1]", (1,)),
        ("whatsapp", "agents.defaults.retry_schedule_seconds = []", ()),
        ("bot", f"{BOT}retry_schedule_seconds = []", ()),
        ("removed", "", (5, 30, 120, 600, 3600, 10_800, 28_800)),
    ],
)
def test_the_kinds_schedule_comes_last(
    tmp_path: Path, channel: str, text: str, schedule: tuple[float, ...]
) -> None:
    """Somebody waits in the chat; entries of a channel that is configured no more wait long."""
    assert schedule_of(entry(channel=channel), tmp_path, text) == schedule


def schedule_of(one: Entry, folder: Path, text: str) -> tuple[float, ...]:
    file = folder / "settings.toml"
    file.write_text(text)
    loaded = load(kinds=KINDS, environ={}, working_folder=folder, config_file=file)
    return RetryPolicies(loaded.settings).of(one).schedule_seconds


def test_a_reload_changes_what_was_looked_up_before(tmp_path: Path) -> None:
    """The policy of an entry is made once, and anew for other settings."""
    file = tmp_path / "settings.toml"
    known: RetryPolicies | None = None
    for seconds in (5, 7):
        file.write_text(f"agents.defaults.timeout_seconds = {seconds}")
        settings = load(kinds=KINDS, environ={}, working_folder=tmp_path, config_file=file).settings
        if known is None:
            known = RetryPolicies(settings)
        known.reconfigure(settings)
        assert known.of(entry()).timeout_seconds == seconds
        assert known.of(entry()) is known.of(entry())


AT_MOST_ONCE = replace(POLICY, at_most_once=True)
DOUBTFUL = sorted(set(OutcomeKind) - {OutcomeKind.SUCCESS})


@pytest.mark.parametrize("kind", DOUBTFUL)
def test_what_has_begun_is_not_tried_again(kind: OutcomeKind) -> None:
    """Unless the agent itself says what it did, nobody knows."""
    done = AT_MOST_ONCE.settle(entry(), Outcome(kind), 0.1, random=lambda: 0.5, begun=True)
    assert (done.state, done.may_have_acted) == (EntryState.DEAD, True)


@pytest.mark.parametrize("kind", DOUBTFUL)
def test_what_has_not_begun_is_tried_again_as_ever(kind: OutcomeKind) -> None:
    """Nobody was called."""
    done = AT_MOST_ONCE.settle(entry(), Outcome(kind), 0.1, random=lambda: 0.5)
    assert done.state is settlement(Outcome(kind)).state
    assert not done.may_have_acted


@pytest.mark.parametrize(
    ("word", "state"),
    [
        (Word.FAILED, EntryState.DEAD),
        (Word.AGAIN, EntryState.WAITING),
        (Word.NOTHING, EntryState.WAITING),
    ],
)
def test_an_agents_own_word_is_no_doubt(word: Word, state: EntryState) -> None:
    """It is believed."""
    outcome = Outcome(OutcomeKind.ERROR, word=word)
    done = AT_MOST_ONCE.settle(entry(), outcome, 0.1, random=lambda: 0.5, begun=True)
    assert (done.state, done.may_have_acted) == (state, False)


def test_who_asks_to_be_called_again_says_when() -> None:
    """Whatever is retried, and without the schedule's pauses; as often as it has steps."""
    again = Outcome(OutcomeKind.ERROR, word=Word.AGAIN, retry_after_seconds=7)
    policy = replace(POLICY, retry_on=frozenset())
    done = policy.settle(entry(), again, 0.1, random=lambda: 0.5)
    assert (done.state, done.due_in_seconds) == (EntryState.WAITING, 7)
    assert policy.settle(entry(retries=3), again, 0.1, random=lambda: 0.5).state is EntryState.DEAD


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("", (True, 900, 900)),
        ('agents.defaults.delivery = "at-least-once"', (False, 900, 900)),
        ("agents.defaults.timeout_seconds = 5", (True, 5, 900)),
        (
            """
            agents.defaults.delivery = "at-least-once"
            agents.Agent.delivery = "at-most-once"
            agents.Agent.stop_grace_seconds = 7
            """,
            (True, 900, 7),
        ),
    ],
)
def test_the_agents_word_beats_the_channels(
    tmp_path: Path, lines: str, expected: tuple[bool, float, float]
) -> None:
    """Its own, then that of all agents, then the kind's of the channel."""
    file = tmp_path / "berinia.toml"
    file.write_text(lines)
    file.chmod(0o600)
    settings = load(kinds=KINDS, environ={}, working_folder=tmp_path, config_file=file).settings
    policy = RetryPolicies(settings).of(entry(channel="whatsapp"))
    found = (policy.at_most_once, policy.timeout_seconds, policy.stop_grace_seconds)
    assert found == expected
    other = RetryPolicies(settings).of(entry(channel="sms"))
    assert other.timeout_seconds == (5 if "timeout" in lines else 60)
