"""What a message costs on a declared channel, beside an SMS of the same fields as Twilio sends it,
through the whole daemon, in turns.
"""

from __future__ import annotations

import shutil

from bench import MOST_PER_SECOND, Bench, Result, median, say
from daemon import LOG_AGENT, Installation
from load import SMS, Endpoint, as_much_as_possible
from messages import DECLARED_PATH, TOKEN, write_declared_messages, write_messages
from processes import running

CONNECTIONS = 32
DECLARED = Endpoint(DECLARED_PATH, "X-Hub-Signature-256", "application/json")
SETTINGS = f"""
{LOG_AGENT}
[channels.declared]
kind = "declared"
agent = "ResponseListenerAgent"
verify = "hmac-sha256"
signature = "X-Hub-Signature-256: sha256={{hex}}"
signed = "{{body}}"
secrets = ["{TOKEN}"]
[[channels.declared.event]]
id = ["MessageSid"]
sender = "From"
recipient = "To"
text = "Body"
"""


def measure(bench: Bench) -> Result:
    """Microseconds of CPU a request on either channel, and their ratio."""
    count = bench.seconds * MOST_PER_SECOND
    sms, declared = bench.folder / "messages-whole", bench.folder / "messages-declared"
    turns = (
        ("sms", write_messages(sms, count, first=0, whole=True), SMS),
        ("declared", write_declared_messages(declared, count, first=0), DECLARED),
    )
    costs: dict[str, list[float]] = {name: [] for name, _, _ in turns}
    for run in range(bench.runs):
        for name, messages, endpoint in turns if run % 2 else reversed(turns):
            folder = bench.new_folder(name)
            daemon = Installation(folder, SETTINGS)
            with running(daemon.start(core=bench.cores.server, dispatch=False)) as server:
                before = server.cpu_seconds()
                result = as_much_as_possible(
                    server.port,
                    messages,
                    core=bench.cores.load,
                    seconds=bench.seconds,
                    connections=CONNECTIONS,
                    endpoint=endpoint,
                )
                used = server.cpu_seconds() - before
            accepted = result["requests"] - result["refused"]
            daemon.must_hold(accepted, repeated=result["repeated"])
            costs[name].append(used / max(1, result["requests"]) * 1e6)
            say(f"  {name:12} {accepted / result['seconds']:8.0f}/s  {costs[name][-1]:6.0f} µs CPU")
            shutil.rmtree(folder)
    sms_us, declared_us = (median(costs[name]) for name in ("sms", "declared"))
    return {
        "sms_cpu_us": sms_us,
        "declared_cpu_us": declared_us,
        "ratio": round(declared_us / sms_us, 3),
    }
