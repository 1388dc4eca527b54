"""The container's files, as their own linters see them; and that they agree with each other."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML  # comes with check-jsonschema

from .building import PROGRAMS, PROJECT

FOLDER = PROJECT / "contrib" / "container"
UNIT = PROJECT / "contrib" / "systemd" / "berinia-webhook.service"


def look(program: str, *words: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """What a linter says; it must be content."""
    done = subprocess.run(
        [PROGRAMS / program, *words],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def compose() -> dict[str, Any]:
    """The compose file as its schema's checker reads it."""
    read: dict[str, Any] = YAML(typ="safe").load(FOLDER / "compose.yaml")
    return read


def test_the_dockerfile_passes_hadolint() -> None:
    """Without a finding; what is left out says why beside it."""
    assert look("hadolint", FOLDER / "Dockerfile").stdout == ""


def test_the_compose_file_is_of_its_schema() -> None:
    """Of the Compose specification."""
    look("check-jsonschema", "--builtin-schema", "vendor.compose-spec", FOLDER / "compose.yaml")


def test_caddy_reads_its_file(tmp_path: Path) -> None:
    """And would write it no differently."""
    file = FOLDER / "Caddyfile"
    where = {"DOMAIN": "app.example.com", "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
    look("caddy", "validate", "--adapter", "caddyfile", "--config", file, **where)
    look("caddy", "fmt", "--diff", file)


def test_compose_gives_the_daemon_no_more_than_it_needs() -> None:
    """And a volume for each folder that the image keeps something in; never a file."""
    service = compose()["services"]["webhookd"]
    dockerfile = (FOLDER / "Dockerfile").read_text()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.search(r"^USER 10001:10001$", dockerfile, re.MULTILINE)
    (volumes,) = re.findall(r"^VOLUME (.+)$", dockerfile, re.MULTILINE)
    mounted = {one.split(":")[1] for one in service["volumes"]}
    assert set(json.loads(volumes)) <= mounted
    assert not [one for one in mounted if Path(one).suffix]


def test_the_daemon_believes_caddy_and_nobody_else() -> None:
    """By the address that compose gives it."""
    services = compose()["services"]
    trusted = services["webhookd"]["environment"]["BERINIA_WEBHOOKD_SERVER__TRUSTED_PROXIES"]
    assert services["caddy"]["networks"]["inside"]["ipv4_address"] == trusted


def test_stopping_takes_as_long_as_under_systemd() -> None:
    """What must not be run twice is not killed sooner."""
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)s$", UNIT.read_text(), re.MULTILINE)
    assert compose()["services"]["webhookd"]["stop_grace_period"] == f"{seconds}s"
