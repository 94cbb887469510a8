"""The simulator in a process of its own: `python -m adapters.simulator [--port PORT] [--knobs JSON]`.

Prints one line of JSON once it listens, and serves until SIGTERM or SIGINT.
"""

import argparse
import asyncio
import signal
import sys

import msgspec

from adapters.simulator.knobs import Knobs
from adapters.simulator.server import Simulator


async def serve(port: int, knobs: Knobs, keep_requests: int) -> None:
    """Serve until told to stop."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Simulator(knobs, port=port, keep_requests=keep_requests) as simulator:
        ready = {
            "url": simulator.url,
            "webhookUrl": simulator.webhook_url,
            "clientId": simulator.client_id,
            "clientSecret": simulator.client_secret,
        }
        sys.stdout.write(msgspec.json.encode(ready).decode() + "\n")
        sys.stdout.flush()
        await stop.wait()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(
        prog="python -m adapters.simulator", description="A CXone look-alike on 127.0.0.1."
    )
    parser.add_argument("--port", type=int, default=0, help="0 takes any free one")
    parser.add_argument("--knobs", default="{}", help="how it behaves: JSON with the fields of Knobs")
    parser.add_argument("--keep-requests", type=int, default=10_000, help="how many requests to remember at most")
    given = parser.parse_args()
    try:
        knobs = msgspec.json.decode(given.knobs, type=Knobs)
    except msgspec.DecodeError as error:
        parser.error(f"--knobs: {error}")
    asyncio.run(serve(given.port, knobs, given.keep_requests))


if __name__ == "__main__":
    main()
