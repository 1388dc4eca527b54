"""The unit, the socket and the drop-ins, by systemd's own offline tools."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from berinia_webhookd.channels.catalogue import KINDS
from berinia_webhookd.config.tables import Tables

KEYS = Tables.of({}, KINDS).keys()
pytestmark = pytest.mark.system

CONTRIB = Path(__file__).parents[2] / "contrib" / "systemd"
SERVICE = CONTRIB / "berinia-webhook.service"
SOCKET = CONTRIB / "berinia-webhook.socket"
DROP_INS = sorted(CONTRIB.glob("*.conf"))
INSTALLED = "/opt/berinia-webhookd/bin/berinia-webhookd"
EXPOSURE_TIMES_TEN = "20"
# What must not be loosened, whoever edits the unit.
PROMISED = {
    "Type": "notify",
    "Sockets": "berinia-webhook.socket",
    "ExecReload": "/bin/sh -c 'kill -HUP $MAINPID'",
    "OOMPolicy": "continue",
    "RestartPreventExitStatus": "3",
    "User": "berinia-webhook",
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
}


@pytest.fixture(params=[None, *DROP_INS], ids=lambda path: path.stem if path else "plain")
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The units as they are installed, but with a program that exists on this machine."""
    text = SERVICE.read_text()
    assert f"ExecStart={INSTALLED} " in text
    service = tmp_path / SERVICE.name
    service.write_text(text.replace(INSTALLED, "/bin/true"))
    shutil.copy(SOCKET, tmp_path)
    if request.param is not None:
        folder = tmp_path / f"{SERVICE.name}.d"
        folder.mkdir()
        shutil.copy(request.param, folder)
    return service


def analyze(*words: str) -> str:
    """What systemd-analyze says, on both outputs."""
    done = subprocess.run(
        ["systemd-analyze", *words], capture_output=True, text=True, timeout=60, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def settings_of(path: Path) -> Mapping[str, list[str]]:
    """Every `Name=value` of a unit file, without sections and comments."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^([A-Za-z]+)=(.*)$", path.read_text(), re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


def test_systemd_finds_nothing_to_say(installed: Path) -> None:
    """No unknown key, no warning, no missing unit: `verify` prints nothing at all."""
    assert analyze("verify", str(installed), str(installed.with_name(SOCKET.name))) == ""


def test_the_guide_makes_a_unit_that_only_dispatches(tmp_path: Path) -> None:
    """Nothing in it leads to the socket, which would hold the port for nobody."""
    guide = (CONTRIB.parents[1] / "docs" / "operating.md").read_text()
    made = re.search(r"^sed (.*) contrib/systemd/berinia-webhook.service > .*/(\S+)$", guide, re.M)
    assert made is not None
    worker = tmp_path / made[2]
    text = SERVICE.read_text()
    worker.write_text(
        subprocess.run(
            ["sed", *shlex.split(made[1])], input=text, capture_output=True, text=True, check=True
        ).stdout
    )
    assert settings_of(worker)["ExecStart"] == [f"{INSTALLED} worker --metrics-port 8004"]
    assert not {"Sockets", "Also"} & settings_of(worker).keys()
    worker.write_text(worker.read_text().replace(INSTALLED, "/bin/true"))
    assert analyze("verify", str(worker)) == ""


def test_the_service_is_confined(installed: Path) -> None:
    """`systemd-analyze security` rates it at 2.0 or better, with each drop-in too."""
    said = analyze(
        "security", "--offline=true", f"--threshold={EXPOSURE_TIMES_TEN}", str(installed)
    )
    assert "Overall exposure level" in said


@pytest.mark.parametrize("installed", DROP_INS[:1], indirect=True)
def test_drop_ins_are_looked_at(installed: Path) -> None:
    """The tests above would notice a mistake in a drop-in."""
    (drop_in,) = installed.parent.glob("*.d/*.conf")
    drop_in.write_text("[Service]\nReadWritePath=/srv\n")
    assert "ReadWritePath" in analyze("verify", str(installed))


def test_the_unit_keeps_its_promises() -> None:
    found = settings_of(SERVICE)
    assert {name: found.get(name) for name in PROMISED} == {
        name: [value] for name, value in PROMISED.items()
    }


def test_root_has_the_credentials_of_the_service_while_it_runs(tmp_path: Path) -> None:
    """Else a secret that is a credential would be called missing, and nothing could be sent."""
    text = (CONTRIB / "berinia-webhookd").read_text().replace(INSTALLED, "/usr/bin/env")
    for place in ("/etc/berinia-webhookd", "/run/credentials"):
        assert place in text
        text = text.replace(place, str(tmp_path))
    for there in (False, True):
        done = subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=True)
        found = f"CREDENTIALS_DIRECTORY={tmp_path}/{SERVICE.name}" in done.stdout.splitlines()
        assert found is there
        (tmp_path / SERVICE.name).mkdir(exist_ok=True)


def test_stopping_has_time_for_the_grace() -> None:
    """Systemd waits longer than the daemon does before it kills."""
    grace = KEYS["server.shutdown_grace_seconds"].default
    grace = max(grace, *(kind.settings.kind_stop_grace_seconds or 0 for kind in KINDS.values()))
    assert float(settings_of(SERVICE)["TimeoutStopSec"][0].removesuffix("s")) >= grace + 10


def test_the_socket_is_where_the_daemon_would_listen() -> None:
    host, port = (KEYS[f"server.{name}"].default for name in ("host", "port"))
    assert settings_of(SOCKET)["ListenStream"] == [f"{host}:{port}"]
    assert settings_of(SERVICE)["ExecStart"] == [f"{INSTALLED} serve --port {port}"]


def test_the_documents_name_every_file() -> None:
    """README.md says of each file where it goes."""
    text = (CONTRIB / "README.md").read_text()
    for path in (SERVICE, SOCKET, *DROP_INS):
        assert f"`{path.name}`" in text


def test_the_hourly_look_is_a_sound_unit_as_confined_as_the_daemon(tmp_path: Path) -> None:
    """Its timer starts it, it changes nothing, and it leaves the daemon's runtime folder alone."""
    service, timer = CONTRIB / "berinia-reconcile.service", CONTRIB / "berinia-reconcile.timer"
    found = settings_of(service)
    assert found["ExecStart"] == [f"{INSTALLED} reconcile --since 12h --dry-run"]
    assert "RuntimeDirectory" not in found
    copy = tmp_path / service.name
    copy.write_text(service.read_text().replace(INSTALLED, "/bin/true"))
    shutil.copy(timer, tmp_path)
    assert analyze("verify", str(copy), str(tmp_path / timer.name)) == ""
    words = ("--offline=true", f"--threshold={EXPOSURE_TIMES_TEN}", str(copy))
    assert "Overall exposure level" in analyze("security", *words)
