"""One process that has imported everything, and forks a child for each job.

Importing torch, timm and transformers costs seconds, as much as a short job of the demo.
`rectify warm snakemake ...` starts the server, sets ``RECTIFY_WARM`` to its socket and runs
the command; `rectify` then passes its arguments, folder, environment and standard streams
to the server and waits for the exit status. A forked child computes what a fresh process
would. The server ends with the command, and a child with its client or the command, however
they end.
"""

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

PRELOADED = (
    "timm",
    "transformers.models.llama.modeling_llama",
    "transformers.models.opt.modeling_opt",
    "matplotlib.backends.backend_pdf",
    "matplotlib.pyplot",
    "seaborn",
    "scipy.stats",
    "sklearn.datasets",
    "rectify.commands.train",
    "rectify.training.run",
    "rectify.training.scoring",
    "rectify.tasks.image_classification.task",
    "rectify.tasks.video_classification.task",
    "rectify.analysis.latex",
    "rectify.similarity.compare",
    "rectify.filtering.measure",
    "rectify.targets.grid",
)
CAN_FORK = sys.platform != "darwin"
"""Whether a process bears a fork after importing torch: the system libraries of macOS do not."""
HEADER_BYTES = 8
LISTENER = "RECTIFY_LISTENER"

Command = Callable[[Sequence[str]], int]
"""Runs the words of a command line and returns the exit status."""


def request(address: str, arguments: Sequence[str]) -> int:
    """Have the server at ``address`` run a command line; return its exit status.

    Raises:
        ValueError: If no server listens there.
    """
    message = {"arguments": list(arguments), "folder": os.getcwd(), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(address)
        except OSError as error:
            raise ValueError(
                f"warm: a server must listen at RECTIFY_WARM, got {error} for {address}. "
                "Unset RECTIFY_WARM, or start the command with `rectify warm`."
            ) from None
        body = json.dumps(message).encode()
        socket.send_fds(client, [len(body).to_bytes(HEADER_BYTES, "big")], [0, 1, 2])
        client.sendall(body)
        status = client.recv(16)
    return int(status) if status else 1


@contextlib.contextmanager
def server(program: Sequence[str]) -> Iterator[str]:
    """Start a server in a process of its own; give its address; stop it at the end.

    Args:
        program: The command line of a process that calls ``serve``.
    """
    with tempfile.TemporaryDirectory(prefix="rectify-") as folder:
        address = str(Path(folder) / "warm")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(address)
        listener.listen()
        process = subprocess.Popen(
            program,
            stdin=subprocess.PIPE,  # closes when this process ends, even by kill -9
            pass_fds=[listener.fileno()],
            env={**os.environ, LISTENER: str(listener.fileno())},
        )
        listener.close()
        with process:
            try:
                yield address
            finally:
                process.kill()  # its children have ended with their callers


def serve(run: Command) -> None:
    """Import everything, then fork a child for each request until standard input closes."""
    from rectify.results.provenance import closure  # clients need not import it

    listener = socket.socket(fileno=int(os.environ.pop(LISTENER)))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # as each command but `fetch` has it
    for module in PRELOADED:
        importlib.import_module(module)
    closure(*(name for name in PRELOADED if name.startswith("rectify.")))  # their digests, once
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are not waited for
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            os._exit(0)
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _serve_one(connection, run)
        connection.close()


def _serve_one(connection: socket.socket, run: Command) -> None:
    """Run one request in this forked child; report its exit status; never return."""
    command = os.dup(0)  # closes at the other side when the command ends, even by kill -9
    header, streams, _, _ = socket.recv_fds(connection, HEADER_BYTES, 3)
    with connection.makefile("rb") as body:
        asked = json.loads(body.read(int.from_bytes(header, "big")))
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    threading.Thread(target=_end_with, args=([connection, command],), daemon=True).start()
    sys.excepthook = _end_after
    try:
        status = run(asked["arguments"])
    except SystemExit as end:  # argparse ends like this
        status = end.code if isinstance(end.code, int) else 1
    sys.stdout.flush()
    sys.stderr.flush()
    connection.send(str(status).encode())  # after any other error there is none: the client ends 1
    os._exit(0)


def _end_after(kind: type[BaseException], error: BaseException, trace: TracebackType) -> None:
    """Show an error that nobody expects, then end at once: tidying up all imports takes seconds."""
    sys.__excepthook__(kind, error, trace)
    sys.stderr.flush()
    os._exit(1)


def _end_with(others: list[socket.socket | int]) -> None:
    """Wait until the client or the command is gone, then end this process at once."""
    select.select(others, [], [])
    os._exit(1)
