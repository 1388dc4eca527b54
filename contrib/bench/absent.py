"""What is not there to be measured: said by name in the report, never passed over."""

from __future__ import annotations

BY_MAKE = "make bench installs it"


class Absent(Exception):
    """A program or library is missing, or may not do what it is needed for.

    Args:
        what: which, or what is wrong with it.
        hint: what to do.
    """

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(f"{what}: {hint}")
