"""Runs one command of the daemon again and again in one process, to tell what it does from what
starting a Python program costs. Prints the median in milliseconds.

Usage: python repeated_command.py ARGUMENTS…
"""

import contextlib
import io
import json
import statistics
import sys
import time

from berinia_webhookd.cli import root

TIMES = 20

taken = []
for _ in range(TIMES):
    output = io.StringIO()
    started = time.perf_counter()
    with contextlib.redirect_stdout(output):
        root.main(sys.argv[1:], prog_name="berinia-webhookd", standalone_mode=False)
    taken.append((time.perf_counter() - started) * 1000)
    if not json.loads(output.getvalue()):
        raise SystemExit("nothing is listed")
print(json.dumps({"median_ms": round(statistics.median(taken), 3)}))
