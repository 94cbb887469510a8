"""The wheel: an embedder who has nothing else can make and upgrade a ledger."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.plain_sql import connect_plainly

ROOT = Path(__file__).parents[2]
OFFLINE = ("--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation")
UPGRADE = """
import asyncio, pathlib, sys
import guestledger
from guestledger.adapters.postgres.admin import migrate
url, unpacked = sys.argv[1:]
for found in (guestledger.__file__, migrate.__file__, migrate._SCRIPTS):
    assert pathlib.Path(found).is_relative_to(unpacked), found
asyncio.run(migrate.upgrade(url))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    made = tmp_path_factory.mktemp("wheel")
    building = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *OFFLINE, "--wheel-dir", str(made), str(ROOT)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=made,
    )
    assert building.returncode == 0, building.stderr
    (path,) = made.glob("*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


def test_the_wheel_holds_the_packages_their_types_and_the_migrations(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())

    assert {"engine/py.typed", "adapters/py.typed"} <= names
    assert {"adapters/postgres/migrations/env.py", "adapters/postgres/migrations/script.py.mako"} <= names
    sources = {
        path.relative_to(ROOT).as_posix()
        for package in ("engine", "adapters")
        for path in (ROOT / package).rglob("*.py")
    }
    versions = {f"adapters/postgres/{path.relative_to(ROOT)}" for path in (ROOT / "migrations/versions").glob("*.py")}
    assert versions
    assert sources | versions <= names


def test_the_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist()}

    assert {top for top in tops if not top.endswith(".dist-info")} == {"engine", "adapters"}
    assert not [name for name in wheel.namelist() if "__pycache__" in name]


async def test_a_ledger_can_be_made_with_what_the_wheel_brings(
    wheel: zipfile.ZipFile, tmp_path: Path, empty_database_url: str
) -> None:
    unpacked = tmp_path / "site"
    wheel.extractall(unpacked)

    upgrading = subprocess.run(  # noqa: ASYNC221 - nothing else is to run meanwhile
        [sys.executable, "-c", UPGRADE, empty_database_url, str(unpacked)],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (upgrading.returncode, upgrading.stderr) == (0, "")
    connection = await connect_plainly(empty_database_url)
    assert await connection.fetchval("SELECT count(*) FROM guestledger.alembic_version") == 1
    await connection.close()
