"""What a machine does not have or allow that a test needs: said loudly, and a failure in CI."""

from __future__ import annotations

import os
from typing import Final, NoReturn

import pytest

IN_CI: Final = bool(os.environ.get("CI"))
needs_root = pytest.mark.skipif(os.geteuid() != 0 and not IN_CI, reason="only root may do this")


def absent(what: str) -> NoReturn:
    """End a test that cannot be run here."""
    if IN_CI:
        pytest.fail(f"not run: {what}")
    pytest.skip(what)
