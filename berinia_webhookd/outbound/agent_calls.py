"""The agent calls of an agent host: loads agents, calls them, and answers the daemon in JSON.

Part of `agent_host.py`, under the same rules: the standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import inspect
import json
import os
import resource
import sys
import traceback
from operator import attrgetter
from typing import Any, Callable, Iterator

CHUNK_BYTES = 65536
RESULT_LIMIT = 1 << 20  # characters
ERROR_HEAD, ERROR_TAIL = 2048, 6144  # characters kept of a traceback
RESOURCES = [
    getattr(resource, f"RLIMIT_{name}")
    for name in ("FSIZE", "NOFILE", "NPROC", "AS", "DATA", "CPU")
]
# Frames of the import system, removed from tracebacks.
NOT_THEIRS = ("<frozen importlib", importlib.__file__, __file__)
NUMBER_KEYS = ("after_seconds", "for_seconds", "cost")
encoded = json.JSONEncoder(ensure_ascii=False).encode  # `dumps` would make an encoder each time
ANSWER_KEYS = ("status", "response", "message", "result", "error", "reason")


# The keys of an envelope's data that each message of a list has for itself.
MESSAGE_KEYS = (
    *("sender", "subject", "body", "message_id", "received_at", "attachments", "signs"),
    *("raw", "raw_multi"),
)


def with_messages(argument: dict[str, Any]) -> dict[str, Any]:
    """Add the list of messages to an envelope of gathered messages."""
    if "specversion" in argument and "messages" not in argument["data"]:
        data = argument["data"]
        own = {key: data[key] for key in MESSAGE_KEYS}
        data["messages"] = [{"id": argument["id"], **own}]
    return argument


class FolderGone(Exception):
    """The agents' folder was removed or cannot be entered, so no agent was called."""


class DeniedAtLoading(Exception):
    """This user may not read or write a path, so the agent cannot be loaded."""

    def __init__(self, error: OSError) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        theirs = [frame for frame in frames if frame.filename.startswith(os.getcwd())]  # noqa: PTH109
        where = f" ({theirs[-1].filename}:{theirs[-1].lineno})" if theirs else ""
        self.path = str(error.filename)
        super().__init__(f"{type(error).__name__}: {self.path}: {error.strerror}{where}")


class Host:
    """Loads agents and makes attempts as the daemon asks, until it closes the socket."""

    def __init__(self, requests: int) -> None:
        self.requests = requests
        self.identity = identity_of(requests)
        self.pid = os.getpid()
        self.folder = os.getcwd()  # noqa: PTH109
        self.limits = resource_limits()
        self.registry = ""
        self.calls: dict[str, Callable[[dict[str, Any]], Any]] = {}
        self.loop: Any = None

    def serve(self) -> None:
        """Answer requests until the daemon closes the socket."""
        while True:
            self.exit_if_not_ours()
            message = read_message(self.requests)
            if message is None:
                return
            answer = self.answer(message)
            flush_output()
            self.exit_if_not_ours()
            write_message(self.requests, answer)

    def exit_if_not_ours(self) -> None:
        """Exit if an agent forked and returned, or replaced our socket's descriptor."""
        if os.getpid() != self.pid:
            os._exit(0)
        if identity_of(self.requests) != self.identity:
            with contextlib.suppress(OSError):
                os.write(2, b"agent_host: the agent closed the socket to the daemon\n")
            os._exit(70)

    def answer(self, message: bytearray) -> dict[str, Any]:
        """Return the answer to one request; every exception becomes an answer, too."""
        try:
            request = json.loads(message)
            answer: dict[str, Any] = getattr(self, "do_" + request.pop("do"))(**request)
        except FolderGone as gone:
            answer = {
                "failed": f"its working folder cannot be entered: {gone}",
                "lacking": "folder",
            }
        except DeniedAtLoading as denied:
            answer = {"failed": str(denied), "denied": denied.path}
        except BaseException as error:  # noqa: BLE001 - sys.exit and its like are failures as well
            answer = {"failed": describe(error, self.folder)}
            if isinstance(error, MemoryError):
                answer["lacking"] = "memory"
            elif isinstance(error, RuntimeError) and "start new thread" in answer["failed"]:
                answer["lacking"] = "threads"
        if no_descriptor_left(self.requests):  # also if the agent swallowed the exception
            answer["lacking"] = "descriptors"
        elif (limits := resource_limits()) != self.limits:
            answer["lacking"] = "limits"
            self.limits = limits
        return answer

    def do_configure(
        self, path: str | None, registry: str | None, memory_limit_bytes: int | None
    ) -> dict[str, Any]:
        """Set where agents are imported from, and their memory limit; the first request."""
        self.registry = registry or ""
        if memory_limit_bytes:
            resource.setrlimit(resource.RLIMIT_AS, (memory_limit_bytes, memory_limit_bytes))
            self.limits = resource_limits()
        if path:
            self.folder = path
            sys.path.insert(0, path)
            with saying_what_is_denied():
                os.chdir(path)
        return {}

    def do_load(self, agent: str, target: str | None) -> dict[str, Any]:
        """Import an agent and make its instance; return its shape, `handle` or `run`."""
        self.enter_folder()
        with saying_what_is_denied():
            found = find(target) if target else self.find_in_registry(agent)
            if isinstance(found, type):
                found = found()
        if found is None:
            return {"failed": f"{self.registry} has no agent {agent} (agents.log has what it said)"}
        for shape in ("handle", "run"):
            if not inspect.isroutine(found) and callable(getattr(found, shape, None)):
                self.calls[agent] = getattr(found, shape)
                return {"shape": shape}
        if not callable(found):
            return {"failed": f"{target or agent} is no function and has neither handle nor run"}
        self.calls[agent] = found
        return {"shape": "handle"}

    def enter_folder(self) -> None:
        """Change to the agents' folder, which an earlier agent may have left."""
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise FolderGone(str(error)) from error

    def find_in_registry(self, agent: str) -> Any:
        """Return what BerinIA's registry has under this name, or None after logging why."""
        registry = find(self.registry)
        get_or_create = registry.get_or_create
        if isinstance(registry, type) and not inspect.ismethod(get_or_create):
            get_or_create = registry().get_or_create
        return get_or_create(agent)

    def do_attempt(self, agent: str, argument: dict[str, Any]) -> dict[str, Any]:
        """Call the agent; return the part of its answer that the daemon reads."""
        self.enter_folder()
        returned = self.calls[agent](with_messages(argument))
        if not isinstance(returned, dict) and inspect.isawaitable(returned):
            returned = self.run_until_complete(returned)
        if not isinstance(returned, dict):
            return {"returned": {}}
        texts: dict[str, Any] = bounded({key: returned.get(key) for key in ANSWER_KEYS})
        return {"returned": {**texts, **numbers_of(returned)}}

    def run_until_complete(self, awaitable: Any) -> Any:
        """Run a coroutine on the event loop that all async agents of this host share."""
        import asyncio  # noqa: PLC0415 - costs plain agents 30 ms at start

        if self.loop is None or self.loop.is_closed():
            self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        return self.loop.run_until_complete(awaitable)


@contextlib.contextmanager
def saying_what_is_denied() -> Iterator[None]:
    """Turn a permission error into one line; its traceback holds only import system frames."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and error.filename:
            raise DeniedAtLoading(error) from error
        raise


def find(target: str) -> Any:
    """Return the object that `module:Name` (or `module:Outer.inner`) names."""
    module, _, name = target.partition(":")
    return attrgetter(name)(importlib.import_module(module))


def bounded(values: dict[str, Any]) -> dict[str, str]:
    """Return the texts of an answer, cut to one limit for their total length."""
    texts = {key: text for key, text in ((key, as_text(values[key])) for key in values) if text}
    if sum(map(len, texts.values())) > RESULT_LIMIT:
        texts = {key: text[: RESULT_LIMIT // len(texts)] for key, text in texts.items()}
    return texts


def numbers_of(returned: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of an answer: after how many seconds to retry, and the cost."""
    numbers: dict[str, float] = {}
    for key in NUMBER_KEYS:
        value = returned.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
            continue  # also a value that is no number
        numbers[key] = float(min(value, 1e9))
    return numbers


def as_text(value: Any) -> str | None:
    """Return text unchanged, None for other JSON types, `str()` of anything else."""
    if isinstance(value, str):
        return str.__str__(value)
    if value is None or isinstance(value, (bool, int, float, list, tuple, dict)):
        return None
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a broken __str__ is no failure of the attempt
        return f"<{type(value).__name__}>"


def describe(error: BaseException, folder: str) -> str:
    """Return the traceback without our frames and the import system's, bounded; its last line names
    the place in the agents' folder and the error: `meta_agent.py:29: SyntaxError: invalid syntax`.
    """
    try:
        told = traceback.TracebackException(type(error), error, error.__traceback__)
        only_theirs(told, set())
        lines = "".join(told.format()).strip().splitlines()
        only = "".join(told.format_exception_only()).splitlines()
        said = next(line for line in only if not line.startswith(" "))  # behind lines of code
        if lines[-1] == said:  # its message has one line
            lines.pop()
        place = place_of(told, folder)
        text = "\n".join([*lines, f"{place}: {said}" if place else said])
    except BaseException:  # noqa: BLE001 - out of memory, or an exception that cannot be shown
        return type(error).__name__
    if len(text) > ERROR_HEAD + ERROR_TAIL:
        text = f"{text[:ERROR_HEAD]}\n…\n{text[-ERROR_TAIL:]}"
    return text


def only_theirs(told: traceback.TracebackException | None, seen: set[int]) -> None:
    """Remove our frames and the import system's, also from chained exceptions."""
    if told is None or id(told) in seen:
        return
    seen.add(id(told))
    theirs = [frame for frame in told.stack if not frame.filename.startswith(NOT_THEIRS)]
    told.stack = traceback.StackSummary.from_list(theirs)
    only_theirs(told.__cause__, seen)
    only_theirs(told.__context__, seen)


def place_of(told: traceback.TracebackException, folder: str) -> str | None:
    """Return file and line of the error: the last frame in the agents' folder, else the last."""
    places: list[tuple[str, Any]] = [(frame.filename, frame.lineno) for frame in told.stack]
    if getattr(told, "filename", None):  # of the file with the syntax error
        places = [(told.filename, told.lineno)]
    elif own := [place for place in places if is_own(place[0], folder)]:
        places = own
    if not places:
        return None
    file, line = places[-1]
    return f"{file[len(folder) + 1 :] if is_own(file, folder) else file}:{line}"


def is_own(file: str, folder: str) -> bool:
    """Whether a file is in the agents' folder, and not of an installed library."""
    return file.startswith(f"{folder}/") and f"-packages{os.sep}" not in file


def identity_of(fd: int) -> tuple[int, int] | None:
    """Return device and inode of an open descriptor; None if it is closed."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def resource_limits() -> list[tuple[int, int]]:
    """Return the resource limits of this process, which an agent may lower for all later ones."""
    return list(map(resource.getrlimit, RESOURCES))


def no_descriptor_left(known: int) -> bool:
    """Return whether this process has no free descriptor, tested by duplicating an open one."""
    try:
        os.close(os.dup(known))
    except OSError as error:
        return error.errno == errno.EMFILE
    return False


def flush_output() -> None:
    """Flush the output of an attempt, so that it is attributed to this attempt."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # closed or replaced by the agent
            stream.flush()


def write_message(fd: int, message: dict[str, Any]) -> None:
    """Write one message of any length to a blocking descriptor."""
    body = encoded(message).encode("utf-8", "replace")
    data = memoryview(len(body).to_bytes(4, "big") + body)
    while data:
        data = data[os.write(fd, data) :]


def read_message(fd: int) -> bytearray | None:
    """Return the bytes of the next message; None when the other side has closed."""
    data = bytearray()
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):  # noqa: PLR2004
        chunk = os.read(fd, CHUNK_BYTES)
        if not chunk:
            return None
        data += chunk
    return data[4:]
