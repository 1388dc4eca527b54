"""Coverage-guided fuzzing of one decoder: `python -m tests.proof.fuzz DECODER SECONDS [--keep]`.
With `--keep` what reaches new code is added to the corpus, which `make test` runs.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.proof import corpus

LONGEST_BYTES = 4096
LONGEST_SECONDS = 5
LONGEST_KEPT_BYTES = 1024


def fuzz(decoder: str, folder: Path, seconds: int) -> subprocess.CompletedProcess[str]:
    """Run in a process of its own, which ends at the first bug."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "tests.proof.fuzz_one", decoder, str(folder)),
            *(f"-max_total_time={seconds}", f"-max_len={LONGEST_BYTES}"),
            *(f"-timeout={LONGEST_SECONDS}", "-print_final_stats=1", "-rss_limit_mb=2048"),
            f"-artifact_prefix={folder.parent}/",
        ],
        capture_output=True,
        text=True,
        check=False,
    )


def run(decoder: str, seconds: int, *, keep: bool = False) -> tuple[bool, str]:
    """Whether all went well, and what to print."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / decoder
        folder.mkdir()
        for number, seed in enumerate(corpus.read(decoder)):
            (folder / f"seed-{number}").write_bytes(seed)
        done = fuzz(decoder, folder, seconds)
        said = done.stderr.splitlines()
        tried = [line.split()[-1] for line in said if "number_of_executed_units" in line]
        if done.returncode:
            bugs = [repr(path.read_bytes()) for path in Path(parent).iterdir() if path.is_file()]
            return False, "\n".join([done.stdout, *said[-5:], "the input:", *bugs])
        if keep:
            found = (path.read_bytes() for path in folder.iterdir())
            corpus.write(decoder, (item for item in found if len(item) <= LONGEST_KEPT_BYTES))
        return True, f"fuzzed {decoder}: tried {tried[0] if tried else 'nothing'}, bugs 0"


if __name__ == "__main__":
    went_well, what = run(sys.argv[1], int(sys.argv[2]), keep="--keep" in sys.argv)
    sys.stdout.write(what + "\n")
    sys.exit(not went_well)
