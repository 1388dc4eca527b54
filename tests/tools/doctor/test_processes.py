"""Reading `/proc`, shown on a folder that looks like it."""

from __future__ import annotations

from pathlib import Path

import pytest

from berinia_webhookd.tools.doctor.processes import (
    describe,
    environment_of,
    folder_of,
    holders,
    is_within,
    listening_inodes,
    port_of,
    socket_unit_has,
    unit_of,
    user_of,
)

SERVICE = "0::/system.slice/berinia-webhook.service\n"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """One process, 7, that listens on port 8001 over IPv6 and has a connection there as well."""
    (tmp_path / "net").mkdir()
    head = "  sl  local_address rem_address   st ...\n"
    (tmp_path / "net/tcp").write_text(
        f"{head} 0: 0100007F:1F41 0100007F:9999 01 00000000:00000000 00:00000000 0 0 0 111 1\n"
        f" 1: 0100007F:1F42 00000000:0000 0A 00000000:00000000 00:00000000 0 0 0 222 1\nrubbish\n"
    )
    (tmp_path / "net/tcp6").write_text(
        f"{head} 0: {'0' * 32}:1F41 {'0' * 32}:0000 0A 0:0 00:0 0 0 0 333 1\n"
    )
    own = tmp_path / "7"
    (own / "fd").mkdir(parents=True)
    (own / "fd/3").symlink_to("socket:[333]")
    (own / "fd/4").symlink_to("/dev/null")
    (own / "cwd").symlink_to("/srv")
    (own / "cmdline").write_bytes(b"/usr/bin/python3\0/srv/run_webhook.py\0--password=hidden\0")
    (own / "status").write_text("Name:\tx\nUid:\t1000\t1001\t1000\t1000\n")
    (own / "environ").write_bytes(b"A=1\0B=2=3\0rubbish\0SYSTEMD_EXEC_PID=7\0")
    (own / "cgroup").write_text(SERVICE)
    return tmp_path


def test_who_holds_a_port(proc: Path) -> None:
    """Listening sockets alone, of both tables; a connection on the same port is none."""
    assert listening_inodes(8001, proc=proc) == {333}
    assert listening_inodes(8002, proc=proc) == {222}
    assert listening_inodes(8003, proc=proc) == set()
    assert [str(one) for one in holders({333}, proc=proc)] == ["process 7 (python3 run_webhook.py)"]
    assert holders({222}, proc=proc) == []


@pytest.mark.parametrize(
    ("cmdline", "name"),
    [
        (b"/opt/x/bin/python\0-m\0berinia_webhookd\0serve\0", "python -m berinia_webhookd"),
        (b"app\0--token\0hidden\0", "app"),
        (b"nginx: worker process\0", "nginx: worker process"),
        (b"", "kthread"),
    ],
)
def test_a_process_is_named_without_its_options(proc: Path, cmdline: bytes, name: str) -> None:
    """Options may hold secrets."""
    (proc / "7/cmdline").write_bytes(cmdline)
    (proc / "7/comm").write_text("kthread\n")
    assert describe(7, proc=proc).name == name


def test_what_a_process_runs_with(proc: Path) -> None:
    """User, folder and environment; nothing of one that is gone."""
    assert user_of(7, proc=proc) == 1001
    assert folder_of(7, proc=proc) == Path("/srv")
    assert environment_of(7, proc=proc) == {"A": "1", "B": "2=3", "SYSTEMD_EXEC_PID": "7"}
    assert user_of(8, proc=proc) is None
    assert folder_of(8, proc=proc) is None
    assert environment_of(8, proc=proc) is None
    assert unit_of(8, proc=proc) is None


def test_which_service_started_a_process(proc: Path) -> None:
    """What a shell in a service started is not that service."""
    assert unit_of(7, proc=proc) == "berinia-webhook"
    (proc / "7/environ").write_bytes(b"SYSTEMD_EXEC_PID=6\0")
    assert unit_of(7, proc=proc) is None
    (proc / "7/environ").unlink()
    assert unit_of(7, proc=proc) == "berinia-webhook"
    (proc / "7/cgroup").write_text("0::/user.slice/user-0.slice/session-1.scope\n")
    assert unit_of(7, proc=proc) is None


def test_the_port_of_an_address() -> None:
    """Unix sockets have none."""
    assert port_of("127.0.0.1:8001") == 8001
    assert port_of("[::1]:80") == 80
    assert port_of("unix:/run/a:80") is None


def test_whose_child_a_process_is(proc: Path) -> None:
    """Itself, its parents' parents; nobody's where it is gone."""
    for pid, parent in ((8, 7), (9, 8)):
        (proc / str(pid)).mkdir()
        (proc / str(pid) / "status").write_text(f"Name:\tx\nPPid:\t{parent}\n")
    assert is_within(9, 7, proc=proc)
    assert is_within(9, 9, proc=proc)
    assert not is_within(7, 9, proc=proc)
    assert not is_within(10, 7, proc=proc)


@pytest.mark.parametrize("address", ["127.0.0.1:8001", "8001", "[::1]:8001"])
def test_what_a_socket_unit_listens_on(tmp_path: Path, address: str) -> None:
    """The unit itself, or what was laid over it; a comment is none."""
    unit = tmp_path / "x.socket"
    unit.write_text(f"[Socket]\n#ListenStream=127.0.0.1:8003\nListenStream={address}\n")
    assert socket_unit_has(8001, "x.socket", [tmp_path / "absent", tmp_path])
    assert not socket_unit_has(8003, "x.socket", [tmp_path])
    assert not socket_unit_has(801, "x.socket", [tmp_path])
    (tmp_path / "x.socket.d").mkdir()
    (tmp_path / "x.socket.d" / "port.conf").write_text("[Socket]\nListenStream=9001\n")
    assert socket_unit_has(9001, "x.socket", [tmp_path])
