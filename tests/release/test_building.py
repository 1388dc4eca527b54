"""What is built: the same twice, complete, and installed by uv and pipx where nothing is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from .building import PROGRAMS, PROJECT, build, normal

pytestmark = pytest.mark.timeout(900)

PINNED = re.compile(r"^([\w.-]+)==(\S+)", re.MULTILINE)


def test_two_builds_are_the_same_and_complete(tmp_path: Path) -> None:
    """Byte for byte, in other folders; with hashes that `sha256sum` agrees with, and a bill of
    every package that is pinned.
    """
    first, second = (
        {one.name: one for one in build("HEAD", tmp_path / name)} for name in ("one", "two")
    )
    assert {name: one.read_bytes() for name, one in first.items()} == {
        name: one.read_bytes() for name, one in second.items()
    }
    subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path / "one", check=True
    )
    (bill,) = (one for name, one in first.items() if name.endswith(".cdx.json"))
    text = bill.read_text()
    assert "file:" not in text  # nothing of the machine that made it
    listed = json.loads(text)["components"]
    components = {one["name"].lower().replace("_", "-"): one["version"] for one in listed}
    # What is for other systems or Pythons is pinned and not installed.
    pinned = {
        name: version
        for name, version in PINNED.findall((PROJECT / "contrib/requirements.txt").read_text())
        if name in components
    }
    assert {"aiohttp", "asyncpg", "opentelemetry-sdk", "twilio"} <= pinned.keys()
    assert pinned.items() <= components.items()
    assert components.keys() - pinned.keys() == {"berinia-webhookd"}
    (archive,) = (one for name, one in first.items() if name.endswith(".tar.gz"))
    with tarfile.open(archive) as files:
        names = {one.partition("/")[2] for one in files.getnames()}
    assert {"PKG-INFO", "CHANGELOG.md", "contrib/systemd/berinia-webhook.service"} <= names
    assert not [one for one in names if one.startswith("tests")]


def test_an_archive_is_the_same_whoever_packs_it_and_when(tmp_path: Path) -> None:
    """Times, owners and the order of files are taken out, the contents are not."""
    made = []
    for number, order in enumerate((("a", "b"), ("b", "a"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in order:
            (folder / name).write_text(name)
            os.utime(folder / name, (number, number))
        with tarfile.open(tmp_path / f"{number}.tar.gz", "w:gz") as archive:
            for name in order:
                archive.add(folder / name, name)
        made.append(normal((tmp_path / f"{number}.tar.gz").read_bytes(), 1_000_000_000))
    assert made[0] == made[1]
    (tmp_path / "normal.tar.gz").write_bytes(made[0])
    with tarfile.open(tmp_path / "normal.tar.gz") as archive:
        assert [(one.name, one.mtime) for one in archive] == [("a", 1e9), ("b", 1e9)]
        content = archive.extractfile("b")
        assert content is not None
        assert content.read() == b"b"


def test_uv_and_pipx_install_the_wheel_where_nothing_is(tmp_path: Path) -> None:
    """With an empty home folder and no environment: the command runs, and finds what it needs."""
    sources = tmp_path / "sources"
    shutil.copytree(PROJECT, sources, ignore=shutil.ignore_patterns(".*", "build", "tests"))
    uv = PROGRAMS / "uv"
    wheels = tmp_path / "wheels"
    subprocess.run([uv, "build", "--quiet", "--wheel", "-o", wheels, sources], check=True)
    (wheel,) = wheels.glob("*.whl")
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: text for name, text in os.environ.items() if name != "VIRTUAL_ENV"}
    environ = {**kept, "HOME": str(home), "PATH": f"{PROGRAMS}:/usr/bin:/bin"}
    for name in [one for one in environ if one.startswith(("XDG_", "BERINIA_"))]:
        del environ[name]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def said(*words: str | Path) -> str:
        done = subprocess.run(
            words, env=environ, cwd=elsewhere, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    version = wheel.name.split("-")[1]
    said(uv, "tool", "install", "--quiet", "--no-python-downloads", wheel)
    installed = home / ".local/bin/berinia-webhookd"
    assert said(installed, "--version") == f"berinia-webhookd, version {version}\n"
    assert "nothing is wrong" in said(installed, "check-config", "--offline")
    pipx = (PROGRAMS / "pipx", "run", "--spec", wheel, "berinia-webhookd")
    assert said(*pipx, "--version").endswith(f"berinia-webhookd, version {version}\n")
