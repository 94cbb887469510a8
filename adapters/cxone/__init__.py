"""CXone over HTTP: the only place that knows its paths, its grant and its wire names."""

from guestledger.adapters.cxone.client import CXoneClient
from guestledger.adapters.cxone.profile import Profile

__all__ = ["CXoneClient", "Profile"]
