"""From a call of a logger to a line: what stands behind structlog.

One JSON object a line; what concerns a channel or the agents also goes to a file of its own. It
takes plain values, and knows nothing of settings. Lines are made by the thread that writes them,
many together: between two requests each would take three times as long.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

import structlog

from berinia_webhookd import json_text
from berinia_webhookd.logs.control_characters import escape_controls, escape_controls_in_json
from berinia_webhookd.logs.files import Draft, Line, LogWriter, to_stderr
from berinia_webhookd.logs.personal_data import OWN_KEYS, hide, scrub, text_of, trace
from berinia_webhookd.logs.reading import EVERYTHING

# structlog's names of the methods that are not levels themselves.
LEVELS: Final = {"exception": "error", "warn": "warning", "fatal": "critical", "msg": "info"}
OF_AGENTS: Final = ("attempt.", "agent.", "agent_host.", "entry.", "reply.")
LONGEST_VALUE: Final = 4096
LONGEST_TRACE: Final = 12_288
LONGEST_NAME: Final = 128
MOST_ITEMS: Final = 64  # of a list or a mapping
MOST_LEVELS: Final = 4  # of lists and mappings in each other
# Whoever reads the logs takes lines up to 64 KiB whole.
LONGEST_LINE_BYTES: Final = 49_152
FEW_KEYS: Final = 24
# What may wait for the thread: plain values, which nobody changes meanwhile, and not too long.
PATIENT: Final = frozenset({int, float, bool, type(None)})
PATIENT_CHARACTERS: Final = 256
SHORT_VALUE: Final = 256

PersonalData = Literal["mask", "full"]
EventDict = MutableMapping[str, Any]


@dataclass
class LogFiles:
    """The configured logs; `close` flushes."""

    writer: LogWriter
    personal_data: PersonalData
    channels: frozenset[str]  # each has a file of its own

    def reconfigure(
        self, *, level: str, personal_data: PersonalData, channels: Iterable[str]
    ) -> None:
        """Take effect from the next line on."""
        self.personal_data = personal_data
        self.channels = frozenset(channels)
        _set_level(level)

    def flush(self) -> bool:
        """Wait until what was said is written."""
        return self.writer.flush()

    def close(self) -> None:
        """Flush, and let go of the files. Later lines go nowhere."""
        self.writer.close()


def configure(
    folder: Path | None,
    *,
    level: str,
    personal_data: PersonalData,
    channels: Iterable[str] = (),
    stderr_json: bool | None = None,
    quiet: bool = False,
) -> LogFiles:
    """Set up structlog and the standard library's logging for this process.

    stderr is readable on a terminal and JSON otherwise, unless `stderr_json` says;
    `quiet` says nothing there.
    """
    as_json = not sys.stderr.isatty() if stderr_json is None else stderr_json
    writer = LogWriter(folder, stderr=None if quiet else to_stderr, stderr_json=as_json)
    files = LogFiles(writer, personal_data, frozenset(channels))
    handover = _Handover(files.writer.put)
    structlog.configure(
        processors=[_Say(files, _Complete(), _Render(files, as_json=as_json))],
        logger_factory=lambda *_: handover,
        cache_logger_on_first_use=False,  # so that a change of level reaches every logger
    )
    _set_level(level)
    _take_over_standard_logging()
    return files


def _set_level(level: str) -> None:
    structlog.configure(**{**structlog.get_config(), "wrapper_class": _filtering(level)})


def _filtering(level: str) -> type[structlog.typing.BindableLogger]:
    return structlog.make_filtering_bound_logger(logging.getLevelName(level.upper()))


class _Say:
    """structlog's one processor: takes down what was said, and when, for the thread that writes."""

    def __init__(self, files: LogFiles, complete: _Complete, render: _Render) -> None:
        self._files = files
        self._complete = complete
        self._render = render

    def __call__(
        self, _: Any, name: str, line: EventDict
    ) -> tuple[tuple[Line | Draft], dict[str, Any]]:
        masked = self._files.personal_data == "mask"
        draft = partial(self._make, name, line, time.time_ns(), masked)
        return (draft if _can_wait(line) else draft(),), {}

    def _make(self, name: str, line: EventDict, said_at: int, masked: bool) -> Line:
        return self._render(name, self._complete(name, line, said_at, masked=masked))


def _can_wait(line: EventDict) -> bool:
    if "exc_info" in line:  # what is being handled is known here and now
        return False
    for value in line.values():
        kind = type(value)
        if kind is str:
            if len(value) > PATIENT_CHARACTERS:
                return False
        elif kind not in PATIENT:
            return False
    return True


class _Complete:
    """Stamps a line, hides people in it, and bounds it. One pass, for every request has lines."""

    def __init__(self) -> None:
        self._second = (0, "")  # together, for several threads speak

    def __call__(self, name: str, line: EventDict, said_at: int, *, masked: bool) -> EventDict:
        complete: EventDict = {
            "timestamp": self._stamp(said_at),
            "level": LEVELS.get(name, name),
            "event": line.pop("event"),
        }
        error = _error_of(line.pop("exc_info", None))
        for key, value in line.items():
            said = hide(key, value) if masked and key not in OWN_KEYS else value
            kind = type(said)
            if (kind is str and len(said) <= LONGEST_VALUE) or kind is float:
                complete[key] = said
            else:
                complete[key] = _cut(said, LONGEST_VALUE)
        if error is not None:
            complete["exception"] = _explained(error, masked=masked)
        return complete

    def _stamp(self, said_at: int) -> str:
        second, nanosecond = divmod(said_at, 1_000_000_000)
        stamped, text = self._second
        if second != stamped:
            text = f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}"
            self._second = (second, text)
        return f"{text}.{nanosecond // 1000:06d}Z"


def _error_of(info: object) -> BaseException | None:
    """The exception behind what a caller gave as `exc_info`."""
    if info is True:
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    return error if isinstance(error, BaseException) else None


def _explained(error: BaseException, *, masked: bool) -> str:
    text = trace(error, with_messages=not masked)
    # The end says what was raised.
    text = text if len(text) <= LONGEST_TRACE else "…" + text[-LONGEST_TRACE:]
    return scrub(text) if masked else text


def _cut(value: Any, longest: int, levels: int = MOST_LEVELS) -> Any:
    """The value as plain data of bounded size."""
    if value is None or value is True or value is False or isinstance(value, float):
        return value
    if isinstance(value, int) and value.bit_length() < 64:  # noqa: PLR2004 - what JSON readers hold
        return value
    if levels and isinstance(value, Mapping):
        items = [
            (_shortened(text_of(name), LONGEST_NAME), _cut(item, longest, levels - 1))
            for name, item in islice(value.items(), MOST_ITEMS)
        ]
        return dict(items) if len(value) <= MOST_ITEMS else {**dict(items), "…": len(value)}
    if levels and isinstance(value, list | tuple | set | frozenset):
        parts = [_cut(item, longest, levels - 1) for item in islice(value, MOST_ITEMS)]
        return parts if len(value) <= MOST_ITEMS else [*parts, "…"]
    if isinstance(value, date):
        return value.isoformat()
    return _shortened(text_of(value), longest)


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[:longest] + "…"


class _Render:
    """A complete line as the files and stderr have it."""

    def __init__(self, logs: LogFiles, *, as_json: bool) -> None:
        self._logs = logs
        self._as_json = as_json
        self._console = structlog.dev.ConsoleRenderer(
            colors=not as_json, pad_event_to=22, sort_keys=False
        )

    def __call__(self, name: str, line: EventDict) -> Line:
        text = _encoded(line)
        screen = text if self._as_json else self._readable(name, line)
        channel = line.get("channel")
        own = channel if isinstance(channel, str) and channel in self._logs.channels else None
        return Line(_files_of(line["event"], line["level"], own), text, screen)

    def _readable(self, name: str, line: EventDict) -> bytes:
        exception = line.get("exception")
        shown = {
            escape_controls(key): escape_controls(value) if isinstance(value, str) else value
            for key, value in line.items()
            if key != "exception" and value is not None
        }
        shown["timestamp"] = str(line["timestamp"])[11:23]
        text = str(self._console(None, name, shown))
        if exception:
            text += "\n" + "\n".join(map(escape_controls, str(exception).splitlines()))
        return text.encode("utf-8", "backslashreplace") + b"\n"


def _encoded(line: EventDict) -> bytes:
    text = _json(line)
    if len(text) > LONGEST_LINE_BYTES:
        # Many values, each long: a little of each of them.
        few = {key: _cut(value, SHORT_VALUE, 0) for key, value in islice(line.items(), FEW_KEYS)}
        text = _json({**few, "shortened": True})
    return text


def _json(line: EventDict) -> bytes:
    text = json_text.encode(line)
    if not text.isascii() or b"\x7f" in text:
        text = escape_controls_in_json(text.decode()).encode()
    return text + b"\n"


@lru_cache(1024)
def _files_of(event: str, level: str, channel: str | None) -> tuple[str, ...]:
    files = [EVERYTHING]
    if channel is not None:
        files.append(channel)
    if event.startswith(OF_AGENTS):
        files.append("agents")
    if level in ("error", "critical"):
        files.append("error")
    return tuple(files)


class _Handover:
    """What structlog takes for a logger: hands each line to the writer."""

    def __init__(self, put: Callable[[Line | Draft], None]) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = self.exception = put
        self.msg = self.warn = self.fatal = self.log = put


class _Forward(logging.Handler):
    """Lines of the libraries, as ours: scrubbed like them, for they may quote a stranger."""

    def emit(self, record: logging.LogRecord) -> None:
        say = structlog.get_logger().error if record.levelno >= logging.ERROR else None
        say = say or structlog.get_logger().warning
        try:
            detail = record.getMessage()
        except (TypeError, ValueError, KeyError):  # its arguments do not fit
            detail = text_of(record.msg)
        say("library", logger=record.name, detail=detail, exc_info=record.exc_info)


def _take_over_standard_logging() -> None:
    root = logging.getLogger()
    root.handlers[:] = [_Forward(logging.WARNING)]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
