"""A real program to run as a replica. It dials the test's desk, then does what the test tells it, one line at a time.

Its children dial the same desk, so that a test is told of their start and,
by the end of the connection, of their end.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

held: list[bytearray] = []
desks: list[socket.socket] = []


def dial(role: str) -> socket.socket:
    desk = socket.socket(socket.AF_UNIX)
    desk.connect(sys.argv[1])
    name = os.environ.get("IM_REPLICA", "unlabelled")
    desk.sendall(f"{role} {name} {os.environ.get('IM_GENERATION', '0')} {os.getpid()}\n".encode())
    desks.append(desk)
    return desk


def say(text: str) -> None:
    print(text, flush=True)


def hold(mib: str) -> None:
    """Take memory and touch every page of it."""
    held.append(bytearray(b"x") * (int(mib) * 1024 * 1024))


def chatter(mib: str) -> None:
    line = "x" * 1023 + "\n"
    for _ in range(int(mib) * 1024):
        sys.stdout.write(line)
    sys.stdout.flush()


def child(kind: str) -> None:
    """A child that does nothing for ever: plain, in a session of its own, or with an empty environment."""
    env = {} if kind == "bare" else dict(os.environ)
    argv = [sys.executable, __file__, sys.argv[1], "sleep"]
    subprocess.Popen(argv, start_new_session=kind == "setsid", env=env)


def stubborn_child(_: str) -> None:
    subprocess.Popen([sys.executable, __file__, sys.argv[1], "stubborn"], start_new_session=True)


def orphan(_: str) -> None:
    """A grandchild in a session of its own whose parent is gone, as daemons are made."""
    subprocess.run([sys.executable, __file__, sys.argv[1], "beget"], check=True)


def ignore_sigterm(_: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def report_sigterm(_: str) -> None:
    """Tell the desk of SIGTERM instead of ending by it, as an engine that drains."""
    signal.signal(signal.SIGTERM, lambda *_: desks[0].sendall(b"sigterm\n"))


def relabel(store_id: str) -> None:
    """A child that carries another store's label."""
    env = {**os.environ, "IM_STORE": store_id}
    subprocess.Popen([sys.executable, __file__, sys.argv[1], "sleep"], start_new_session=True, env=env)


def fork_for_ever(_: str) -> None:
    """Each generation forks the next and dies, so that no pid lives long: for a minute, lest a broken run leave it."""
    end = time.monotonic() + 60
    if os.fork() == 0:
        while time.monotonic() < end and os.fork() == 0:
            time.sleep(0.001)
        os._exit(0)


def leave(code: str) -> None:
    os._exit(int(code))


COMMANDS: dict[str, Callable[[str], None]] = {
    "say": say,
    "hold": hold,
    "chatter": chatter,
    "child": child,
    "stubborn-child": stubborn_child,
    "orphan": orphan,
    "ignore-sigterm": ignore_sigterm,
    "report-sigterm": report_sigterm,
    "relabel": relabel,
    "fork-for-ever": fork_for_ever,
    "exit": leave,
}


def obey(desk: socket.socket) -> None:
    """Do each line; answer it when done."""
    for line in desk.makefile("r"):
        name, _, argument = line.strip().partition(" ")
        COMMANDS[name](argument)
        desk.sendall(b"done\n")
    signal.pause()  # the desk closed: an engine does not end because a test looked away


def main(role: str) -> None:
    if role == "beget":
        subprocess.Popen([sys.executable, __file__, sys.argv[1], "sleep"], start_new_session=True)
        return
    if role == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    desk = dial(role)
    if role == "engine":
        obey(desk)
    else:
        signal.pause()


main(sys.argv[2])
