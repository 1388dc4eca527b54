"""The whole program with the fourth kind of channel in its catalogue: run it with `python -m`."""

from __future__ import annotations

from berinia_webhookd.channels import catalogue
from berinia_webhookd.cli import main
from tests.channels import meta

catalogue.KINDS[meta.MetaChannel.kind] = meta.KIND

if __name__ == "__main__":
    main()
