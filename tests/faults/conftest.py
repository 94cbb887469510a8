"""What the fault suite has to tell, shown at the end of every test run: at how many points what was ended, and by which seed."""

from collections.abc import Callable

import pytest

pytest.register_assert_rewrite("tests.faults.servers")

_TOLD = "fault suite"


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """`tell(line)`: show this line at the end of the test run."""

    def tell(line: str) -> None:
        print(line)  # noqa: T201 - pytest shows it with a failure
        record_property(_TOLD, line)

    return tell


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for ended in ("passed", "failed") for report in terminalreporter.stats.get(ended, ())]
    lines = [line for report in reports for name, line in report.user_properties if name == _TOLD]
    if lines:
        terminalreporter.section(_TOLD)
    for line in lines:
        terminalreporter.line(line)
