"""TCP ports of programs that a test starts."""

import asyncio
import random
import socket

# Below those that systems give to whoever asks for any port, as other tests do meanwhile.
_PORTS = range(20_000, 30_000)


def free_port() -> int:
    """A port of this machine that nobody uses."""
    while True:
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


async def is_open(port: int) -> bool:
    """Whether a program listens on `port`."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
