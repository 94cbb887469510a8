import pytest

pytest.register_assert_rewrite("tests.unit.given", "tests.unit.limiters", "tests.unit.waiting")
