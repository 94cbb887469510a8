"""The simulator as a process: `python -m guestledger.adapters.simulator [--port PORT] [--config JSON]`.

Print one line of JSON when it listens, then serve until SIGTERM or SIGINT.
"""

import argparse
import asyncio
import signal
import sys

import msgspec

from guestledger.adapters.simulator.config import SimulatorConfig
from guestledger.adapters.simulator.server import Simulator


async def serve(port: int, config: SimulatorConfig, keep_requests: int) -> None:
    """Serve until a signal."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Simulator(config, port=port, keep_requests=keep_requests) as simulator:
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
        prog="python -m guestledger.adapters.simulator", description="A CXone look-alike on 127.0.0.1."
    )
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--config", default="{}", help="JSON with fields of SimulatorConfig")
    parser.add_argument("--keep-requests", type=int, default=10_000, help="how many requests to keep")
    given = parser.parse_args()
    try:
        config = msgspec.json.decode(given.config, type=SimulatorConfig)
    except msgspec.DecodeError as error:
        parser.error(f"--config: {error}")
    asyncio.run(serve(given.port, config, given.keep_requests))


if __name__ == "__main__":
    main()
