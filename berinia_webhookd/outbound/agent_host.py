"""The agent host: the child process in which Python agents run, one attempt at a time.

Stand-alone with `agent_calls.py`: the standard library only, Python 3.9 or newer, nothing of the
daemon, because agents live in a virtual environment of their own. Started as `python -u
agent_host.py CONTROL`, it is a fork server: for each four descriptors that come over the inherited
socket it forks a host within milliseconds, without work for the daemon. That child forks again: the
parent stays as a guardian, which kills all processes of the agents as soon as the host ends or the
daemon is gone (the daemon's end of the life-line closes, even at kill -9); the child loads agents
and calls them. Processes of a guardian that was killed are reparented to the fork server, which
kills them; it ends after its last guardian. Both speak length-prefixed JSON. It isolates from
failure, not from malice.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import fcntl
import importlib.util
import os
import resource
import select
import signal
import socket
import sys
from typing import Any, Callable, Collection

FOLDER = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
if sys.path and sys.path[0] == FOLDER:
    del sys.path[0]  # our neighbours must not shadow the agents' modules


def neighbour(name: str) -> Any:
    """The module in the file beside this one; `import` of that name is left to the agents."""
    spec = importlib.util.spec_from_file_location(name, f"{FOLDER}/{name}.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


agent_calls = neighbour("agent_calls")

OLDEST = (3, 9)
PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
NICENESS = 10
OUT_OF_MEMORY_SCORE = 500  # the kernel kills hosts before the daemon
REQUESTS_FD = 64  # our descriptors are above this: agents may close or reuse low numbers
CHUNK_BYTES = 65536


# --- all processes


def control_process(option: int, value: Any) -> None:
    """Call Linux' prctl(2); a refusal weakens a guarantee and is ignored."""
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def name_process(name: str) -> None:
    """Set the process name that `top` shows; at most 15 characters."""
    control_process(PR_SET_NAME, name.encode())


def wake_at_child_ends() -> tuple[int, int]:
    """Return both ends of a pipe that becomes readable whenever a child has ended."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    return wake_read, wake_write


# --- the fork server


def lower_priority() -> None:
    """Leave one CPU to the daemon, and run at low priority on the others."""
    try:
        cpus = os.sched_getaffinity(0)
        if len(cpus) > 1:
            os.sched_setaffinity(0, cpus - {min(cpus)})
        os.nice(NICENESS)
    except OSError as error:  # a filter of system calls may refuse it
        sys.stderr.write(f"agent_host: agents cannot be put behind the daemon: {error.strerror}\n")


def wait_for_request(control: socket.socket) -> list[int]:
    """Return the descriptors of a host, in the forked child; in the fork server itself an empty
    list, once the daemon has closed the socket and no process of any host is left.
    """
    wake_read, wake_write = wake_at_child_ends()
    guardians: set[int] = set()
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(wake_read, select.POLLIN)
    closing = False
    while guardians or not closing:
        for fd, _ in poll.poll():
            if fd == wake_read:
                os.read(wake_read, CHUNK_BYTES)
                reap(guardians)
                if closing:
                    continue_all(guardians)
                continue
            _, ends, _, _ = socket.recv_fds(control, 1, 4, socket.MSG_CMSG_CLOEXEC)
            if not ends:
                closing = True
                poll.unregister(control)
                continue_all(guardians)
            elif (child := fork_guardian()) == 0:
                signal.set_wakeup_fd(-1)
                os.close(wake_read)
                os.close(wake_write)
                return ends
            else:
                guardians |= {child} - {-1}
                for end in ends:
                    os.close(end)
    end_descendants()
    return []


def continue_all(guardians: Collection[int]) -> None:
    """Send SIGCONT to guardians, which agents may have stopped; the daemon may be gone."""
    for guardian in guardians:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(guardian, signal.SIGCONT)


def fork_guardian() -> int:
    """Fork; return the child's pid, 0 in the child."""
    try:
        return os.fork()
    except OSError as error:  # the daemon sees its ends closed, and reads the reason from stderr
        sys.stderr.write(f"agent_host: fork: {error.strerror}\n")
        return -1


def reap(guardians: set[int]) -> None:
    """Forget guardians that have ended; kill the processes that a killed guardian left."""
    orphans = False
    pid = -1
    while pid:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid:
            orphans = orphans or pid not in guardians or os.WIFSIGNALED(status)
            guardians.discard(pid)
    if orphans:  # each end signals again, until none is left
        for orphan in descendants(os.getpid(), but=guardians):
            kill(os.kill, orphan)


def start_host(requests: int, lifeline: int, stdout: int, stderr: int) -> None:
    """Fork again, before any thread exists: the parent guards, the child serves.

    All hosts stay in the fork server's session. Where the kernel shares the CPU out among sessions
    (`sched_autogroup`), each with one of its own would weigh as much as the daemon.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGCONT, signal.SIG_DFL)
    os.setpgid(0, 0)
    for fd, number in ((stdout, 1), (stderr, 2)):
        os.dup2(fd, number)
        os.close(fd)
    guardian = os.getpid()
    control_process(PR_SET_CHILD_SUBREAPER, 1)
    child = os.fork()
    if child:
        os.close(requests)
        with contextlib.suppress(OSError):  # the child did so itself, or has ended
            os.setpgid(child, child)
        guard(child, lifeline)
    else:
        os.close(lifeline)
        become_host(guardian, requests)


# --- the guardian


def guard(child: int, lifeline: int) -> None:
    """Wait for the end of the host or the daemon; kill what is left, then report the host's end."""
    name_process("agent-guardian")
    # An agent may stop this process; after the daemon ended nothing else continues it.
    control_process(PR_SET_PDEATHSIG, signal.SIGCONT)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    wake_read, _ = wake_at_child_ends()
    try:
        agent_calls.write_message(lifeline, {"guardian": os.getpid(), "host": child})
        status = wait_for_an_end(child, lifeline, wake_read)
    except OSError:  # the daemon is gone already
        status = None
    clean_up(child, lifeline, status)


def wait_for_an_end(child: int, lifeline: int, wake_read: int) -> int | None:
    """Return the wait status of the host, or None if the daemon ends first. Reap orphans."""
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    poll.register(wake_read, select.POLLIN)
    while True:
        pid = -1
        while pid:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == child:
                return status
        for fd, _ in poll.poll():
            if fd == wake_read:
                os.read(wake_read, CHUNK_BYTES)
            elif not os.read(lifeline, CHUNK_BYTES):
                return None


def clean_up(child: int, lifeline: int, status: int | None) -> None:
    """Kill the host's group and every descendant, also those with a session of their own."""
    kill(os.killpg, child)
    status = end_descendants().get(child, status)
    if status is None:
        return
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    with contextlib.suppress(OSError):
        agent_calls.write_message(lifeline, {"exit_code": code, "signal": number})


def end_descendants() -> dict[int, int]:
    """Kill all descendants of this process; return the wait statuses of its children."""
    statuses: dict[int, int] = {}
    while True:
        for pid in descendants(os.getpid()):
            kill(os.kill, pid)
        try:
            pid, status = os.waitpid(-1, 0)
        except ChildProcessError:
            return statuses
        statuses[pid] = status


def kill(how: Callable[[int, int], None], pid: int) -> None:
    """Send SIGKILL, whether or not the target still exists."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        how(pid, signal.SIGKILL)


def descendants(ancestor: int, but: Collection[int] = ()) -> list[int]:
    """Return the pids of all descendants of `ancestor`, a subreaper, so orphans are among them;
    without some of its children and their descendants.
    """
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue  # ended meanwhile
            children.setdefault(int(fields[1]), []).append(int(name))
    found = [pid for pid in children.get(ancestor, ()) if pid not in but]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


# --- the host


def become_host(guardian: int, requests: int) -> None:
    """Set up the forked child as a host, and serve."""
    control_process(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guardian:
        return
    os.setpgid(0, 0)
    name_process("agent-host")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open("/proc/self/oom_score_adj", "r+") as file:  # noqa: PTH123
            if int(file.read()) < OUT_OF_MEMORY_SCORE:
                file.write(str(OUT_OF_MEMORY_SCORE))
    except OSError as error:
        sys.stderr.write(f"agent_host: oom_score_adj: {error}\n")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    faulthandler.enable()
    highest = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1
    kept = fcntl.fcntl(requests, fcntl.F_DUPFD_CLOEXEC, min(REQUESTS_FD, highest))
    os.close(requests)
    agent_calls.Host(kept).serve()


def main() -> None:
    """Prepare what all hosts have in common, and wait for the daemon's requests."""
    if sys.version_info < OLDEST:
        sys.exit(f"agents.python needs Python 3.9 or newer; this is {sys.version.split()[0]}")
    name_process("agent-forks")
    # An agent may stop this process; after the daemon ended nothing else continues it.
    control_process(PR_SET_PDEATHSIG, signal.SIGCONT)
    signal.signal(signal.SIGCONT, lambda *_: None)  # handled, so that it wakes the wait
    control_process(PR_SET_CHILD_SUBREAPER, 1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # stopping is the daemon's decision
    lower_priority()
    with socket.socket(fileno=int(sys.argv[1])) as control:
        del sys.argv[1:]
        fds = wait_for_request(control)
    if fds:
        start_host(*fds)


if __name__ == "__main__":
    main()
