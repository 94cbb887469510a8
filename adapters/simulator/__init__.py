"""A CXone look-alike on loopback, over real HTTP: the other side in the demo, the tests and the benchmark.

It speaks the wire contract by itself and shares no code with the client, so that the two check each other.
"""

from adapters.simulator.knobs import Knobs
from adapters.simulator.server import Simulator

__all__ = ["Knobs", "Simulator"]
