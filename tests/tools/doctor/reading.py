"""Runs `doctor --json` beside a daemon, and finds what it said."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.end_to_end.daemon import PATIENCE_SECONDS, Daemon


@dataclass(frozen=True)
class Report:
    status: int
    document: dict[str, Any]

    def of(self, check: str, level: str | None = None) -> list[dict[str, Any]]:
        return [
            finding
            for finding in self.document["findings"]
            if finding["check"] == check and level in (None, finding["level"])
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
            " | ".join([finding["level"], finding["check"], finding["what"], *finding["mend"]])
            for finding in self.document["findings"]
        )

    __repr__ = __str__

    @property
    def wrong(self) -> set[str]:
        return {
            finding["check"] for finding in self.document["findings"] if finding["level"] == "wrong"
        }


def doctor(daemon: Daemon, *words: str, environment: Mapping[str, str] | None = None) -> Report:
    done = subprocess.run(
        daemon.command("doctor", "--json", *words),
        env={**daemon.environment, **(environment or {})},
        cwd=daemon.folder,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_SECONDS,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stdout, done.stderr
    return Report(done.returncode, json.loads(done.stdout))
