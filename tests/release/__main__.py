"""`python -m tests.release dist` makes what is released of the last commit in `dist/`;
`python -m tests.release release VERSION` makes a release, as CONTRIBUTING.md says.
"""

from __future__ import annotations

import subprocess
import sys

from .building import PROJECT, build
from .releasing import Refused, release


def main(words: list[str]) -> str | None:
    """Return what went wrong."""
    try:
        match words:
            case ["dist"]:
                made = build("HEAD", PROJECT / "dist")
            case ["release", version]:
                made = release(version)
            case _:
                return __doc__
    except (Refused, subprocess.CalledProcessError) as error:
        return str(error)
    sys.stdout.write("".join(f"dist/{one.name}\n" for one in made))
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
