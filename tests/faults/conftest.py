"""The fault suite's own checks explain themselves when they fail."""

import pytest

pytest.register_assert_rewrite("tests.faults.servers")
