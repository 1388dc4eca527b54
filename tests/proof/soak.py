"""The long form of the proofs: `python -m tests.proof.soak SECONDS`, run by `make soak`. Half of
the time goes to faults under traffic, half to fuzzing the decoders, and ten thousand mails are read
besides; a bug ends it with status 1.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ..channels.deliveries import email_channel
from .decoders import DECODERS
from .fuzz import run as fuzz
from .mails import mails, misread
from .storm import Storm

SENDERS = 4
DISK_MIB = 1024
MAILS = 10_000
# Kills are what there must be most of; every other fault comes in turn.
KILLS_PER_FAULT = 4


def faults(storm: Storm, seed: int) -> Iterator[str]:
    """Without end: mostly kills, the others in an order of their own each round."""
    dice = random.Random(seed)
    others = [name for name in storm.faults if name != "kill"]
    while True:
        for name in dice.sample(others, len(others)):
            yield name
            yield from ["kill"] * KILLS_PER_FAULT


def rage(folder: Path, seconds: float) -> tuple[bool, str]:
    """Faults under traffic for so long; whether nothing was lost, and what to print."""
    seed = time.time_ns()
    storm = Storm(folder, senders=SENDERS, pause_seconds=0.02, disk_mib=DISK_MIB)
    ends = time.monotonic() + seconds
    with storm.raging():
        for name in faults(storm, seed):
            if time.monotonic() > ends:
                break
            storm.befall(name)
            sys.stderr.write(f"\r{sum(storm.counts.values())} faults, {name:<24}")
    verdict = storm.verdict()
    lines = [
        f"seed {seed}",
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


def main(seconds: int) -> int:
    """Run it all; the exit status."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        results = [rage(Path(folder), seconds / 2)]
    sys.stdout.write(results[0][1] + "\n")
    results.append(read_mails())
    sys.stdout.write(results[-1][1] + "\n")
    for name in sorted(DECODERS):
        went_well, what = fuzz(name, max(1, seconds // 2 // len(DECODERS)))
        sys.stdout.write(what + "\n")
        sys.stdout.flush()
        results.append((went_well, what))
    return 0 if all(went_well for went_well, _ in results) else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
