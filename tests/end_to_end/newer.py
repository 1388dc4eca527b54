"""The next version of this program: a copy of the package whose journal is one schema step further,
to be run beside ours.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import berinia_webhookd
from berinia_webhookd.journal.migrate import SCHEMA_VERSION

OLDER_VERSION = berinia_webhookd.__version__
NEWER_VERSION = "99.1.0"
STEP = SCHEMA_VERSION + 1

# By the rule: it only adds.
MIGRATION = f"""
ALTER TABLE entries ADD COLUMN remark TEXT;
CREATE INDEX entries_remark ON entries (remark);
CREATE TABLE remarks (remark TEXT PRIMARY KEY);
UPDATE schema SET version = {STEP};
"""


@dataclass(frozen=True)
class Program:
    """One that lies in a folder."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What lets a process run it and not ours."""
        return {"PYTHONPATH": str(self.folder)}


def newer_program(folder: Path) -> Program:
    """Make it in a new folder."""
    package = folder / "berinia_webhookd"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(berinia_webhookd.__file__).parent, package, ignore=ignored)
    _change(package / "__init__.py", r'(?m)^__version__ = ".*"', f'__version__ = "{NEWER_VERSION}"')
    statements = package / "journal" / "sql"
    (statements / f"{STEP:04d}.sql").write_text(MIGRATION)
    # And uses it: what it inserts has a remark, what we insert has none.
    accept = statements / "accept.sql"
    _change(accept, r"(?s)(INSERT INTO entries\n.*?finished_at)\)", r"\1, remark)")
    _change(accept, r"(?s)(INSERT INTO entries\n.*? END)\);", r"\1, 'newer');")
    return Program(folder)


def _change(file: Path, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, file.read_text())
    assert count == 1, (file, pattern)
    file.write_text(text)
