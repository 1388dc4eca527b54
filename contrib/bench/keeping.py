"""What those keep who promise to: all that was answered with 2xx before `kill -9`, and how often
one message that is sent twice.
"""

from __future__ import annotations

import http.client
import shutil
from collections import Counter
from contextlib import closing

from absent import Absent
from bench import Bench, Result, say
from load import OpenLoop
from messages import SMS, numbers_in
from peers import DISPATCHING, PEERS, Receiver
from processes import running, wait_until

RATE = 300  # a second, when it is killed
KILLED_AFTER = 150  # messages


def measure(bench: Bench) -> Result:
    """By peer, each once."""
    found: Result = {}
    for one in PEERS:
        if one.keeps and one.name != DISPATCHING:
            folder = bench.new_folder(one.name)
            try:
                with closing(one.install(bench, folder)) as receiver:
                    found[one.name] = _killed(bench, receiver) | _sent_twice(bench, receiver)
            except Absent as reason:
                bench.leave_out(one.name, reason)
                continue
            shutil.rmtree(folder)
            said = ", ".join(f"{what} {many}" for what, many in found[one.name].items())
            say(f"  {one.name:28} {said}")
    return found


def _killed(bench: Bench, receiver: Receiver) -> Result:
    """Once some were accepted; after a new start everything must be there."""
    seconds = max(2, bench.seconds)
    messages = bench.other_messages(RATE * seconds + 1)
    server = receiver.start()
    with running(server):
        callers = OpenLoop(
            server.port, messages, rate=RATE, seconds=seconds, core=bench.cores.load, lines=True
        )
        wait_until(lambda: len(receiver.kept()) >= KILLED_AFTER)
        server.kill()
        result = callers.result()
    with running(receiver.start()):
        kept = Counter(receiver.kept())
    numbers = numbers_in(messages.read_text().splitlines())
    accepted = {numbers[line] for line in result["accepted_lines"]}
    return {
        "accepted": len(accepted),
        "lost": len(accepted - kept.keys()),
        "unanswered": sum(number not in accepted for number in kept),
    }


def _sent_twice(bench: Bench, receiver: Receiver) -> Result:
    messages = bench.other_messages(1)
    signature, _, body = messages.read_text().rstrip("\n").partition("\t")
    headers = {"Content-Type": SMS.media_type, SMS.header: signature}
    statuses = []
    server = receiver.start()
    with running(server):
        for _ in range(2):
            with closing(http.client.HTTPConnection("127.0.0.1", server.port)) as connection:
                connection.request("POST", SMS.path, body, headers)
                statuses.append(connection.getresponse().status)
    (number,) = numbers_in([body])
    return {"statuses_of_two": statuses, "kept_of_two": receiver.kept().count(number)}
