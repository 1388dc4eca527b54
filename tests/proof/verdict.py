"""What became of every message: lost, out of order, mixed up, repeated without a reason."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .traffic import Conversation

# How an attempt ends that a crash cut short.
CRASHES = frozenset({"lost", "crash"})
MOST_LOSSES = 5  # so many deaths of the daemon while it is running make an entry dead


@dataclass
class Verdict:
    acknowledged: int = 0
    delivered: int = 0
    repeated: int = 0
    lost: list[str] = field(default_factory=list)
    disordered: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    mixed_up: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)

    @property
    def failures(self) -> dict[str, list[str]]:
        """What must not be, by name."""
        return {
            "lost": self.lost,
            "out of order": self.disordered,
            "mixed up": self.mixed_up,
            "repeated without a crash": self.unexplained,
            "unfinished": self.unfinished,
        }


def judge(
    conversations: Iterable[Conversation], seen: Path, exported: Sequence[dict[str, Any]]
) -> Verdict:
    """Compare what was acknowledged with what the agents wrote down and what the journal says."""
    lines = [json.loads(line) for line in seen.read_text().splitlines()]
    times = Counter(line["text"] for line in lines)
    events = defaultdict(set)
    for line in lines:
        events[line["text"]].add(line["id"])
    attempts = {event["id"]: _outcomes(event) for event in exported}
    verdict = Verdict(delivered=len(times), repeated=sum(times.values()) - len(times))
    for conversation in conversations:
        verdict.acknowledged += len(conversation.acknowledged)
        expected = [conversation.text(number) for number in conversation.acknowledged]
        verdict.lost += [text for text in expected if text not in times]
        wanted = set(expected)
        first = list(dict.fromkeys(line["text"] for line in lines if line["text"] in wanted))
        present = [text for text in expected if text in times]
        verdict.disordered += [
            f"{got} where {text} was due"
            for got, text in zip(first, present, strict=True)
            if got != text
        ]
    for text, ids in events.items():
        if len(ids) > 1:
            verdict.mixed_up.append(f"{text} in {len(ids)} events")
        crashes = sum(outcome in CRASHES for id_ in ids for outcome in attempts.get(id_, ()))
        if times[text] > 1 + crashes:
            verdict.unexplained.append(f"{text} {times[text]} times, {crashes} crashes")
    for event in exported:
        if event["state"] == "dead" and attempts[event["id"]].count("lost") >= MOST_LOSSES:
            verdict.given_up.append(event["id"])
        elif event["state"] != "done":
            verdict.unfinished.append(f"{event['id']} is {event['state']}")
    return verdict


def _outcomes(event: dict[str, Any]) -> list[str]:
    return [str(attempt["outcome"]) for attempt in event["attempts"]]
