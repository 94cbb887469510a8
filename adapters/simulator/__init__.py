"""A CXone look-alike on loopback, over real HTTP: the other side in the demo, the tests and the benchmark.

It speaks the wire contract by itself and shares no code with the client, so that the two check each other.
"""

from guestledger.adapters.simulator.config import SimulatorConfig
from guestledger.adapters.simulator.server import Simulator

__all__ = ["Simulator", "SimulatorConfig"]
