"""`serve.json`, in which a running daemon leaves its address and paths for other commands, without
secrets. A file that is invalid, or whose process has ended, counts as absent.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from berinia_webhookd.config.files import Unusable, distrust, read_ordinary
from berinia_webhookd.config.settings import Settings, runtime_folder, state_folder
from berinia_webhookd.config.values import SQLITE, sqlite_file
from berinia_webhookd.errors import CannotStart, CannotStartNow, NotPermitted, WebhookdError
from berinia_webhookd.journal.consents_key import FILE_NAME as CONSENTS_KEY
from berinia_webhookd.journal.consents_key import ConsentsKey
from berinia_webhookd.listening import configured_address
from berinia_webhookd.own_requests import InstallationKey

FILE_NAME: Final = "serve.json"
MAX_BYTES: Final = 64 * 1024
# The RuntimeDirectory= of the unit in contrib, which an operator's shell has no variable for.
SYSTEM_FOLDER: Final = Path("/run/berinia-webhookd")


@dataclass(frozen=True, slots=True)
class RunningDaemon:
    """What a running daemon says about itself."""

    pid: int
    address: str  # host:port, or unix:/path
    version: str
    configuration: Path | None  # the TOML file, if there is one
    journal: Path | None  # the SQLite file; None for PostgreSQL
    logs: Path
    state: Path  # the state folder
    runtime: Path  # the folder of this file
    console: str | None = None  # the URL of the web console, where it is on

    def uses(self, config_file: Path | None) -> bool:
        """Whether it has this configuration file (None: none)."""
        return _absolute(config_file) == _absolute(self.configuration)


def of_settings(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    address: str,
    version: str,
    config_file: Path | None,
    console: str | None = None,
) -> RunningDaemon:
    """Describe this process."""
    return RunningDaemon(
        pid=os.getpid(),
        address=address,
        version=version,
        configuration=_absolute(config_file),
        journal=_absolute(settings.journal.file),
        logs=settings.logs.dir.absolute(),
        state=state_folder(environ),
        runtime=runtime_folder(environ),
        console=console,
    )


def write(installation: RunningDaemon, environ: Mapping[str, str]) -> Path:
    """Write the file atomically, where other commands look; return its path.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = runtime_folder(environ)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / FILE_NAME
    fresh = folder / f".{FILE_NAME}.{os.getpid()}"
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as stream:
            json.dump(asdict(installation), stream, indent=2, default=str)
            stream.write("\n")
        fresh.replace(file)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    return file


def announce(installation: RunningDaemon, environ: Mapping[str, str]) -> None:
    """Write the file, by which other commands find this daemon.

    Raises:
        CannotStartNow: the disk is full.
        CannotStart: the folder cannot be written.
    """
    try:
        write(installation, environ)
    except OSError as error:
        folder = runtime_folder(environ)
        why = f"{FILE_NAME} cannot be written in {folder}: {error.strerror}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CannotStartNow(why, hint=f"make room: df -h {folder}") from error
        hint = "let $RUNTIME_DIRECTORY, else $STATE_DIRECTORY, be a folder of the daemon's user"
        raise CannotStart(why, hint=hint) from error


def remove(environ: Mapping[str, str]) -> None:
    """Remove the file, unless another process wrote it meanwhile."""
    file = runtime_folder(environ) / FILE_NAME
    found = _read_file(file)
    if found is not None and found.pid == os.getpid():
        with contextlib.suppress(OSError):
            file.unlink()


def read(
    environ: Mapping[str, str],
    *,
    config_file: Path | None = None,
    system_folder: Path = SYSTEM_FOLDER,
) -> RunningDaemon | None:
    """Find the running daemon: beside the given configuration file, where `serve --dev` writes,
    else in the first folder that has one.

    Raises:
        NotPermitted: none was found, but a file that this user may not read.
    """
    beside = None if config_file is None else _beside(config_file)
    if beside is not None:
        return beside
    closed: list[Path] = []
    for folder in _folders(environ, system_folder):
        file = folder / FILE_NAME
        found = _read_file(file)
        if found is not None and _is_alive(found.pid):
            return found
        if found is None and is_closed(file):
            closed.append(file)
    if closed and (config_file is None or not _is_ours(config_file)):
        raise NotPermitted(closed[0])
    return None


def address(
    settings: Settings,
    environ: Mapping[str, str],
    installation: RunningDaemon | None,
    config_file: Path | None,
) -> str:
    """Return where the running daemon listens, else where one that was killed did, else where one
    would.
    """
    known = installation or _killed(environ, config_file)
    return configured_address(settings.server) if known is None else known.address


def _killed(environ: Mapping[str, str], config_file: Path | None) -> RunningDaemon | None:
    """Return the daemon with this configuration whose file is left, because it was killed."""
    left = [_read_file(runtime_folder(environ) / FILE_NAME)]
    if config_file is not None:
        left.append(_read_file(config_file.with_name(FILE_NAME), beside=config_file))
    return next((one for one in left if one is not None and one.uses(config_file)), None)


def journal_url(settings: Settings, installation: RunningDaemon | None) -> str:
    """Return the journal of the running daemon, else the configured one. May hold a password."""
    if installation is not None and installation.journal is not None:
        return f"{SQLITE}{installation.journal}"
    return settings.journal.url.reveal()


def logs_folder(settings: Settings, installation: RunningDaemon | None) -> Path:
    """Return the log folder of the running daemon, else the configured one."""
    return settings.logs.dir if installation is None else installation.logs


def shown_url(url: str) -> str:
    """Return a journal's URL without user, password and options."""
    file = sqlite_file(url)
    if file is not None:
        return str(file)
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def own_key(
    environ: Mapping[str, str], installation: RunningDaemon | None
) -> InstallationKey | None:
    """Return the installation's key; None if there is none, or this user may not read it."""
    folder = state_folder(environ) if installation is None else installation.state
    try:
        return InstallationKey.read(folder)
    except (OSError, ValueError):
        return None


def consents_key(
    settings: Settings, environ: Mapping[str, str], installation: RunningDaemon | None
) -> ConsentsKey | None:
    """Return the key of the register of consents; None if there is none. If no daemon runs, its
    file is also looked for beside the journal.

    Raises:
        WebhookdError: this user may not read it, or it cannot be used.
    """
    folders = [state_folder(environ) if installation is None else installation.state]
    if installation is None and settings.journal.file is not None:
        folders.append(settings.journal.file.parent)
    for folder in folders:
        try:
            return ConsentsKey.of(settings, folder)
        except FileNotFoundError:
            continue
        except PermissionError as error:
            file = folder / CONSENTS_KEY
            raise NotPermitted(file) from error
        except (OSError, ValueError) as error:
            raise WebhookdError(f"consents.key cannot be used: {error}") from error
    return None


def _beside(config_file: Path) -> RunningDaemon | None:
    found = _read_file(config_file.with_name(FILE_NAME), beside=config_file)
    if found is None or not _is_alive(found.pid) or not found.uses(config_file):
        return None
    return found


def _folders(environ: Mapping[str, str], system_folder: Path) -> Iterator[Path]:
    runtime = _first(environ, "RUNTIME_DIRECTORY")
    if runtime is not None:
        yield runtime
    yield state_folder(environ)
    if runtime is None:
        yield system_folder


def _first(environ: Mapping[str, str], name: str) -> Path | None:
    """Return the first of the folders in a variable, which systemd separates by colons."""
    first = environ.get(name, "").split(":")[0]
    return Path(first) if first else None


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().absolute().resolve()


def _read_file(file: Path, *, beside: Path | None = None) -> RunningDaemon | None:
    """Read a file that belongs to root, to us, or to the owner of the configuration file beside it,
    else of its folder, which systemd makes for the daemon's user. Otherwise anybody who may write
    there could lead root to a journal of their own.
    """
    try:
        owner = (beside or file.parent).stat().st_uid
        text = read_ordinary(file, MAX_BYTES, partial(distrust, owner=owner))
        return _from_json(json.loads(text))
    except (OSError, Unusable, ValueError, RecursionError):
        return None


def _from_json(found: object) -> RunningDaemon | None:
    match found:
        case {
            "pid": int(pid),
            "address": str(address),
            "version": str(version),
            "configuration": None | str() as configuration,
            "journal": None | str() as journal,
            "logs": str(logs),
            "state": str(state),
            "runtime": str(runtime),
            "console": None | str() as console,
        } if pid > 0 and pid is not True:
            return RunningDaemon(
                pid=pid,
                address=address,
                version=version,
                configuration=None if configuration is None else Path(configuration),
                journal=None if journal is None else Path(journal),
                logs=Path(logs),
                state=Path(state),
                runtime=Path(runtime),
                console=console,
            )
    return None


def is_closed(file: Path) -> bool:
    """Whether a file may be there, and is not for this user."""
    try:
        file.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return not os.access(file, os.R_OK, effective_ids=True)


def _is_ours(file: Path) -> bool:
    try:
        return file.stat().st_uid == os.getuid()
    except OSError:
        return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True  # another user's
    except (OSError, OverflowError):
        return False
    return True
