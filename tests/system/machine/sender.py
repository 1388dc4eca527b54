"""Sends SMS to port 8001 until its input ends, then prints what became of each. A number on its
input is answered once so many more were accepted. Started inside a machine's network.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

from tests.end_to_end.load import Load

from .machine import PATIENCE_SECONDS


@dataclass
class Port:
    port: int


def main() -> None:
    with Load(Port(8001), retry_seconds=float(sys.argv[1])) as load:
        for line in sys.stdin:
            load.wait_for_more(int(line), PATIENCE_SECONDS)
            print("there", flush=True)  # noqa: T201
    found = {"accepted": sorted(load.accepted), "refused": load.refused, "failed": load.failed}
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()
