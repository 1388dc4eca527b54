"""The next version of this program: a copy of the package whose journal is one schema step further,
to be run beside ours.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import berinia_webhookd
from berinia_webhookd.journal.schema import SCHEMA_VERSION

OLDER_VERSION = berinia_webhookd.__version__
NEWER_VERSION = "99.1.0"
STEP = SCHEMA_VERSION + 1

# By the rule: it only adds.
MIGRATION = f'''
from alembic import op
from sqlalchemy import Column, Text

revision = "{STEP:04d}"
down_revision = "{SCHEMA_VERSION:04d}"


def upgrade() -> None:
    op.add_column("entries", Column("remark", Text))
    op.create_index("entries_remark", "entries", ["remark"])
    op.create_table("remarks", Column("remark", Text, primary_key=True))
    op.execute("UPDATE schema SET version = {STEP}")
'''
# And uses it: what it inserts on PostgreSQL has a remark, what we insert has none.
NEWER_COLUMN = '    Column("remark", Text, default="newer"),\n'


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
    tables = package / "journal" / "schema.py"
    _change(tables, r"(?m)^(SCHEMA_VERSION: Final =) \d+", rf"\1 {STEP}")
    _change(tables, r"(?s)(\nentries = Table\(\n.*?)(?=\n\)\n)", rf"\1\n{NEWER_COLUMN.rstrip()}")
    versions = package / "journal" / "migrations" / "versions"
    (versions / f"v{STEP:04d}_remarks.py").write_text(MIGRATION)
    return Program(folder)


def _change(file: Path, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, file.read_text())
    assert count == 1, (file, pattern)
    file.write_text(text)
