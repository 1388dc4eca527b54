"""Mixed honest and hostile traffic of all channels for a while, and then the accounts: every
message that was accepted must have reached its agent, and nothing hostile may have.

Usage: python contrib/bench/mixed.py [--seconds 600]

Starts a daemon of its own in a temporary folder. Its agent writes down the token of each message
it gets (and fails now and then, to be tried again). Prints counts, the daemon's resident memory at
the start, in the middle and at the end, and the number of tracebacks. Exit code 1: something
accepted was lost or is still open, something hostile was believed, something was answered 500, or
there was a traceback.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import aiohttp
import honest
import hostile
from daemon import Installation
from processes import Server, running

WARM_UP_SECONDS = 10.0
DRAIN_SECONDS = 120.0
OPEN_STATES = ("ready", "running", "waiting")
# channel, messages a second
HONEST = (("sms", honest.honest_sms, 20.0), ("email", honest.honest_mail, 5.0))
WHATSAPP = ("whatsapp", honest.whatsapp, 5.0)

AGENT = """
import pathlib

SEEN = pathlib.Path(__file__).with_name("seen")


class Accountant:
    def run(self, input_data):
        data = input_data.get("data", input_data)
        token = data.get("body", data.get("content"))
        if hash(token) % 50 == 0 and input_data["attempt"] == 1:
            return {"status": "error"}
        with SEEN.open("a") as seen:
            seen.write(f"{token[:80]}\\n")
        return {"status": "success", "response": f"noted {token[:80]}"}
"""
SETTINGS = """
channels.email.signing_keys = ["{key}"]
channels.whatsapp.reply_wait_seconds = 5
channels.whatsapp.retry_schedule_seconds = [0.2, 1, 5]
agents.path = "{folder}"
agents.defaults.retry_schedule_seconds = [0.2, 1, 5]
agents.ResponseListenerAgent.target = "python:accountant:Accountant"
agents.MetaAgent.target = "python:accountant:Accountant"
agents.AdminInterpreterAgent.target = "python:accountant:Accountant"
"""


def install(folder: Path) -> Installation:
    """A daemon whose limits on failures are the usual ones."""
    (folder / "accountant.py").write_text(AGENT)
    settings = SETTINGS.format(key=honest.MAILGUN_KEY, folder=folder)
    installation = Installation(folder, settings)
    text = installation.config.read_text()
    installation.config.write_text(text.replace("requests = 999999999", "requests = 100", 1))
    return installation


async def traffic(server: Server, seconds: float) -> tuple[honest.Accounts, Counter[str], float]:
    """Send until the time is over; gives the memory in the middle as well."""
    accounts = honest.Accounts()
    until = asyncio.get_running_loop().time() + seconds
    async with aiohttp.ClientSession(
        f"http://127.0.0.1:{server.port}",
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=honest.ANSWER_SECONDS),
    ) as session:
        target = hostile.Target(session, server.port, until)
        middle = asyncio.create_task(memory_after(server, seconds / 2))
        async with asyncio.TaskGroup() as group:
            for channel, make, per_second in (*HONEST, WHATSAPP):
                group.create_task(
                    honest.send_on(
                        session,
                        make,
                        accounts,
                        channel=channel,
                        per_second=per_second,
                        until=until,
                    )
                )
            for attack, count in hostile.ATTACKS:
                for _ in range(count):
                    group.create_task(attack(target))
        return accounts, target.answers, await middle


async def memory_after(server: Server, seconds: float) -> float:
    await asyncio.sleep(seconds)
    return server.resident_mib()


def drain(installation: Installation) -> int:
    """Wait until nothing is open any more; gives what still is."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while time.monotonic() < deadline:
        left = sum(installation.entries(state) for state in OPEN_STATES)
        if not left:
            return 0
        time.sleep(0.2)
    return left


def tracebacks(files: Iterable[Path]) -> int:
    """Lines that begin or hold one, in everything the daemon wrote."""
    return sum(
        "Traceback" in line
        for file in files
        for line in file.read_text(errors="replace").splitlines()
    )


def show(title: str, counts: Counter[str]) -> None:
    print(f"\n{title}")
    for name in sorted(counts):
        print(f"  {name:32} {counts[name]:8}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        installation = install(Path(name))
        with running(installation.start(core=None, dispatch=True)) as server:
            asyncio.run(traffic(server, min(WARM_UP_SECONDS, options.seconds)))
            first = server.resident_mib()
            accounts, answers, middle = asyncio.run(traffic(server, options.seconds))
            left = drain(installation)
            last = server.resident_mib()
        seen = (installation.folder / "seen").read_text().splitlines()
        broken = tracebacks([installation.folder / "output", *installation.logs.iterdir()])
    sys.exit(report(accounts, answers, seen, (first, middle, last), left=left, broken=broken))


def report(
    accounts: honest.Accounts,
    answers: Counter[str],
    seen: list[str],
    memory_mib: tuple[float, float, float],
    *,
    left: int,
    broken: int,
) -> int:
    """Print everything; 1 if anything is wrong."""
    arrived = Counter(seen)
    lost = accounts.accepted - arrived.keys()
    believed = [token for token in seen if not token.startswith("honest-")]
    failed = sum(
        count for name, count in (accounts.answers + answers).items() if name.endswith(" 500")
    )
    show("honest messages, by answer", accounts.answers)
    show("hostile requests, by answer (None: cut off)", answers)
    print(
        f"\naccepted {len(accounts.accepted)}, arrived {len(accounts.accepted & arrived.keys())}, "
        f"lost {len(lost)}, handed over more than once "
        f"{sum(count > 1 for count in arrived.values())}, still open {left}"
        f"\nhostile messages seen by an agent: {len(believed)}; answers of 500: {failed}"
    )
    first, middle, last = memory_mib
    print(
        f"resident memory: {first:.1f} MiB at the start, {middle:.1f} in the middle, "
        f"{last:.1f} at the end"
    )
    print(f"tracebacks: {broken}")
    if lost:
        print("lost:", *sorted(lost)[:20])
    wrong = bool(lost or believed or failed or broken or left)
    print("FAILED" if wrong else "every accepted message reached its agent")
    return int(wrong)


if __name__ == "__main__":
    main()
