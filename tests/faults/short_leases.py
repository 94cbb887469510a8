"""`guestledger` with leases of one second, so that those of a killed process lapse soon.

python -m tests.faults.short_leases ARGUMENTS
"""

from guestledger.adapters import wiring
from guestledger.adapters.cli.main import main

LEASE_MS = 1_000

if __name__ == "__main__":
    wiring.LEASE_MS = LEASE_MS
    main()
