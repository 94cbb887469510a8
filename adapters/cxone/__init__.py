"""CXone over HTTP: its paths, grant and field names."""

from guestledger.adapters.cxone.client import CXoneClient
from guestledger.adapters.cxone.profile import Profile

__all__ = ["CXoneClient", "Profile"]
