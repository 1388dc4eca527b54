"""The long form of the proofs: `python -m tests.proof.soak SECONDS`, run by `make soak`. First the
attacks that are tests of their own, once; then faults under traffic, with the journal in a file and
in PostgreSQL, each fault at least once; then fuzzing of the decoders. Ten thousand made mails are
read besides. A bug ends it with status 1.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from tests.channels.deliveries import email_channel
from tests.postgresql import Postgresql

from .decoders import DECODERS
from .fuzz import run as fuzz
from .mails import mails, misread
from .storm import Storm

ROOT = Path(__file__).parents[2]
# Raw HTTP directly and through both versions of nginx, hostile agents, files and disks.
ATTACKS = (
    "tests/proof/test_forgeries.py",
    "tests/proof/test_floods.py",
    "tests/system/test_raw_http.py",
    "tests/outbound/test_isolation.py",
    "tests/outbound/test_http_agent.py",
    "tests/end_to_end/test_hostile_files.py",
    "tests/end_to_end/test_journal_faults.py",
    "tests/end_to_end/test_limits.py",
)
ATTACKS_SECONDS = 900  # at the very most
MAILS = 10_000
SENDERS = 4
DISK_MIB = 1024
# Kills are what there must be most of; every other fault comes in turn.
KILLS_PER_FAULT = 4


def attack() -> tuple[bool, str]:
    """Run the attacks that are tests; whether they all held, and what to print."""
    pytest = (sys.executable, "-m", "pytest", "--quiet", "--numprocesses", "2", *ATTACKS)
    try:
        done = subprocess.run(
            pytest, cwd=ROOT, capture_output=True, text=True, check=False, timeout=ATTACKS_SECONDS
        )
    except subprocess.TimeoutExpired:
        return False, f"the attacks did not end within {ATTACKS_SECONDS} s"
    lines = done.stdout.splitlines()
    counted = itertools.dropwhile(lambda line: " proof " not in line, lines)
    return done.returncode == 0, "\n".join(counted) or done.stdout


def rounds(storm: Storm, seed: int) -> Iterator[list[str]]:
    """Without end: every fault once, in an order of its own each round, and kills between them:
    one in the first round, so that it is a short one.
    """
    dice = random.Random(seed)
    others = [name for name in storm.faults if name != "kill"]
    for kills in itertools.chain((1,), itertools.repeat(KILLS_PER_FAULT)):
        chosen = dice.sample(others, len(others))
        yield [name for other in chosen for name in (other, *["kill"] * kills)]


def rage(folder: Path, seconds: float, server: Postgresql | None) -> tuple[bool, str]:
    """Faults under traffic for so long, each at least once; whether nothing was lost, and what to
    print.
    """
    seed = time.time_ns()
    storm = Storm(folder, senders=SENDERS, pause_seconds=0.02, disk_mib=DISK_MIB, server=server)
    ends = time.monotonic() + seconds
    with storm.raging():
        for number, faults in enumerate(rounds(storm, seed)):
            for name in faults:
                if number and time.monotonic() > ends:
                    break
                storm.befall(name)
                sys.stderr.write(f"\r{sum(storm.counts.values())} faults, {name:<24}")
            if time.monotonic() > ends:
                break
    verdict = storm.verdict()
    lines = [
        f"{'SQLite' if server is None else 'PostgreSQL'}, seed {seed}",
        f"faults {sum(storm.counts.values())}: {storm.counts}; hosts killed {storm.host_kills}",
        f"left-over WALs {storm.left_over_wals}; answers {storm.traffic.answers}",
        f"acknowledged {verdict.acknowledged}, delivered {verdict.delivered}",
        f"repeated {verdict.repeated}, given up after five crashes {len(verdict.given_up)}",
    ]
    for what, found in verdict.failures.items():
        lines.append(f"{what} {len(found)} {found[:10] or ''}".rstrip())
    return not any(verdict.failures.values()), "\n".join(lines)


def read_mails() -> tuple[bool, str]:
    """Whether made mails are read as they were meant, and what to print."""
    seed, channel = time.time_ns(), email_channel()
    wrong = [found for made in mails(seed, MAILS) if (found := misread(channel, made)) is not None]
    return not wrong, "\n".join([f"mails {MAILS}, seed {seed}, misread {len(wrong)}", *wrong[:10]])


def everything(seconds: int) -> Iterator[tuple[bool, str]]:
    """Whether each part held, and what to print of it."""
    ends = time.monotonic() + seconds
    yield attack()
    yield read_mails()
    left = max(0.0, ends - time.monotonic())
    with contextlib.ExitStack() as stack:
        for server in (None, stack.enter_context(closing(Postgresql()))):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-"))
            yield rage(Path(folder), left / 3, server)
    each = int(max(0.0, ends - time.monotonic())) // len(DECODERS)
    for name in sorted(DECODERS):
        yield fuzz(name, max(1, each))


def main(seconds: int) -> int:
    """Run it all; the exit status."""
    held = True
    for went_well, what in everything(seconds):
        held = held and went_well
        sys.stdout.write(what + "\n")
        sys.stdout.flush()
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
