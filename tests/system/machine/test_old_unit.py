"""From the old installation's unit to the package's and back, by the lines of the guide."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_guides import FENCE

from .conftest import Packages
from .installing import SERVICE, configure, seen, wait_until_delivered
from .machine import PATIENCE_SECONDS, PROJECT, Machine, Traffic, wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]

GUIDE = PROJECT / "contrib" / "systemd" / "README.md"
SCRIPT = PROJECT / "tests" / "system" / "run_webhook.py"
FOLDER = "/root/berinia/infra-ia"
OLD_UNIT = f"""
[Unit]
Description=BerinIA webhook server
After=network.target

[Service]
User=root
WorkingDirectory={FOLDER}
ExecStart=/usr/bin/python3 {FOLDER}/run_webhook.py --host 127.0.0.1 --port 8001
Restart=always
RestartSec=10

[Install]
WantedBy=multi-user.target
"""


def blocks(page: Path, heading: str) -> list[str]:
    """The shell lines of one section, block by block."""
    section = page.read_text().split(f"{heading}\n")[1].split("\n## ")[0].split("\n### ")[0]
    return [text for language, text in FENCE.findall(section) if language == "sh"]


def test_over_to_the_package_and_back_as_the_guide_says(
    machine: Machine, packages: Packages
) -> None:
    """Every message is answered by one of the two, none is refused, and all of ours are delivered,
    also those that our agent had not got when the old one came back.
    """
    machine.write("/etc/systemd/system/berinia-webhook.service", OLD_UNIT)
    machine.write(f"{FOLDER}/run_webhook.py", SCRIPT.read_text())
    machine.run("systemctl", "enable", "--now", SERVICE)
    process = machine.show(SERVICE, "MainPID")
    old_log = machine.path(f"{FOLDER}/old.log")
    prepare, hold_back, change_over = blocks(GUIDE, "## From the old unit to this one")
    way_back, clean_up = blocks(GUIDE, "### The way back")
    assert "apt install ./berinia-webhookd_" in prepare
    file = prepare.split()[2]
    with Traffic(machine, retry_seconds=PATIENCE_SECONDS) as traffic:
        traffic.wait_for_more(20)
        machine.type(prepare.replace(file, packages.current).replace("install", "install --yes"))
        configure(machine, "server.shutdown_grace_seconds = 0.1\n", with_drop_in=False)
        machine.run("berinia-webhookd", "check-config")
        traffic.wait_for_more(20)
        assert machine.show(SERVICE, "MainPID") == process

        machine.type(hold_back)
        machine.type(change_over)
        assert machine.show(SERVICE, "FragmentPath").startswith("/lib/systemd")
        machine.run("berinia-webhookd", "send", "sms")
        traffic.wait_for_more(20)
        machine.path(f"{FOLDER}/agents/hold").touch()
        traffic.wait_for_more(20)

        machine.type(hold_back)
        machine.type(way_back)
        before = old_log.read_text()
        traffic.wait_for_more(20)
        assert len(old_log.read_text()) > len(before)
        traffic.finish()
    assert (traffic.refused, traffic.failed) == ({}, {})
    machine.path(f"{FOLDER}/agents/hold").unlink()
    ours = traffic.accepted - set(old_log.read_text().split())
    assert len(ours) >= 40
    wait_until_delivered(machine, ours)
    wait_until(
        lambda: machine.show("berinia-rest.service", "StatusText") == "0 entries open",
        lambda: machine.status("berinia-rest.service"),
    )
    process = machine.show(SERVICE, "MainPID")
    machine.type(clean_up.replace("apt remove", "apt --yes remove"))
    assert machine.show(SERVICE, "MainPID") == process != "0"
    assert seen(machine) >= ours
