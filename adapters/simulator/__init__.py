"""A CXone look-alike and a webhook receiver on loopback. It shares no code with the client."""

from guestledger.adapters.simulator.api import Made
from guestledger.adapters.simulator.config import SimulatorConfig
from guestledger.adapters.simulator.server import SentRequest, SentWebhook, Simulator

__all__ = ["Made", "SentRequest", "SentWebhook", "Simulator", "SimulatorConfig"]
