"""The service errors that a scheduler meets: one warning until something succeeds."""

import logging

from guestledger.engine.domain.errors import ServiceError

waiting = logging.getLogger("guestledger.waiting")


class Trouble:
    """What a scheduler has to wait for."""

    def __init__(self) -> None:
        self.last: ServiceError | None = None
        """The last service error; `None`: there was none since something succeeded."""
        self._of_database: ServiceError | None = None
        self._reported = ""

    def report(self, error: ServiceError | None) -> None:
        """Note what a session met; `None`: it succeeded. One warning until something succeeds, not one a session."""
        if error is not None and str(error) != self._reported:
            waiting.warning("the scheduler has to wait: %s", error)
        self._reported, self.last = "" if error is None else str(error), error

    def report_database(self, error: ServiceError) -> None:
        """Note what a look at the database met."""
        self._of_database = error
        self.report(error)

    def database_answered(self) -> None:
        """Note that it answered, whichever task it was: the one that failed may not need it again for long."""
        if self.last is self._of_database:
            self.last = None

    def recovered(self, failures: int) -> int:
        """Note that a task succeeded after so many failures. Returns its failures now: 0."""
        if failures:
            self._reported = ""
        return 0
