"""CXone over HTTP. Only this folder knows its paths, its grant and its field names."""

from guestledger.adapters.cxone.client import CXoneClient
from guestledger.adapters.cxone.profile import Profile

__all__ = ["CXoneClient", "Profile"]
