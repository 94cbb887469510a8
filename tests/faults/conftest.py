"""Assertions in the helpers of the fault suite show their values."""

import pytest

pytest.register_assert_rewrite("tests.faults.servers")
