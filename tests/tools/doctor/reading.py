"""Lets `doctor` look at a daemon, and finds what it said."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from berinia_webhookd.tools.doctor import examine, report
from berinia_webhookd.tools.doctor.installation import find
from berinia_webhookd.tools.terminal import json_text
from tests.end_to_end.daemon import Daemon


@dataclass(frozen=True)
class Report:
    status: int
    document: dict[str, Any]

    def of(self, check: str, level: str | None = None) -> list[dict[str, Any]]:
        return [
            finding
            for finding in self.document["findings"]
            if finding["subject"].partition(".")[0] == check and level in (None, finding["level"])
        ]

    def one(self, check: str, level: str, *words: str) -> dict[str, Any]:
        """The one finding of a check at a level with these words in it."""
        found = [
            finding
            for finding in self.of(check, level)
            if all(word in json.dumps(finding, ensure_ascii=False) for word in words)
        ]
        assert len(found) == 1, self
        return found[0]

    def __str__(self) -> str:
        return "\n" + "\n".join(
            " | ".join([finding["level"], finding["subject"], finding["what"], *finding["fix"]])
            for finding in self.document["findings"]
        )

    __repr__ = __str__

    @property
    def wrong(self) -> set[str]:
        return {
            finding["subject"].partition(".")[0]
            for finding in self.document["findings"]
            if finding["level"] == "wrong"
        }


def doctor(daemon: Daemon, *, environment: Mapping[str, str] | None = None) -> Report:
    """What the command would say, without starting a process for it."""
    environ = {**daemon.environment, **(environment or {})}
    found = find(daemon.config, environ, daemon.folder)
    said = json.loads(json_text(report(found, asyncio.run(examine(found)))))
    return Report(0 if said["healthy"] else 1, said)


def run_doctor(daemon: Daemon) -> Report:
    """The command itself."""
    done = daemon.run("doctor", "--json", check=False)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stdout, done.stderr
    return Report(done.returncode, json.loads(done.stdout))
