"""What atheris runs: the daemon's decoders with their coverage watched. Needs the extra `soak`."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["berinia_webhookd.channels", "multipart"]):
    from tests.proof.decoders import DECODERS

if __name__ == "__main__":
    decoder = DECODERS[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], decoder)
    atheris.Fuzz()
