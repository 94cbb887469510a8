"""Runs `guestledger` in forks of one process that has imported everything: importing takes most of a command's time.

`python zygote.py serve SOCKET` is that process. `python zygote.py SOCKET ARGUMENT…` is the command: it passes its arguments,
environment, directory and standard streams on, and exits with the same code.
"""

# ruff: noqa: PLC0415 - the command imports nothing that is slow

import json
import os
import random
import socket
import sys

_MAX_REQUEST = 1 << 20


def serve(path: str) -> None:
    """Fork for each command, until stdin is closed."""
    import selectors
    import signal

    import aiohttp  # noqa: F401 - what commands import when they run
    import alembic.command  # noqa: F401
    import asyncpg  # noqa: F401
    import rich.progress  # noqa: F401

    import guestledger
    from guestledger.adapters.cli import main  # noqa: F401

    for name in guestledger.__all__:
        getattr(guestledger, name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
        listener.bind(path)
        listener.listen()
        selector.register(listener, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        while all(key.fileobj is listener for key, _ in selector.select()):
            connection, _ = listener.accept()
            if os.fork() == 0:
                _run(connection)
            connection.close()


def _run(connection: socket.socket) -> None:
    import signal

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a command has children of its own, and waits for them
    code = 1
    try:
        text, streams, _, _ = socket.recv_fds(connection, _MAX_REQUEST, 3)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        asked = json.loads(text)
        os.environ.clear()
        os.environ.update(asked["environment"])
        os.chdir(asked["directory"])
        sys.argv = asked["arguments"]
        random.seed()  # or all commands would draw the same
        from guestledger.adapters.cli.entry import main

        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.send(bytes([code]))
        os._exit(0)


def ask(path: str, arguments: list[str]) -> int:
    """Have a command run; return its exit code."""
    asked = {
        "arguments": ["guestledger", *arguments],
        "environment": dict(os.environ),
        "directory": os.path.realpath("."),
    }
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        socket.send_fds(connection, [json.dumps(asked).encode()], [0, 1, 2])
        return (connection.recv(1) or b"\xff")[0]


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        sys.exit(ask(sys.argv[1], sys.argv[2:]))
