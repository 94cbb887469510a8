"""What a command that was stopped leaves behind."""

import asyncio
import gc

import pytest

from guestledger.adapters.cli.running import _report_unless_lost


@pytest.mark.parametrize(("error", "reported"), [(ConnectionError("lost"), False), (RuntimeError("a fault"), True)])
def test_a_connection_that_was_cut_off_leaves_no_line_and_a_fault_does(
    error: Exception, caplog: pytest.LogCaptureFixture, *, reported: bool
) -> None:
    async def leave() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_report_unless_lost)
        loop.create_future().set_exception(error)
        gc.collect()

    asyncio.run(leave())
    assert ("never retrieved" in caplog.text) is reported
