"""The wheel holds the package `guestledger` and works beside a host's own `adapters` and `engine` packages."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from tests.integration.plain_sql import connect_plainly

ROOT = Path(__file__).parents[2]
FOLDERS = ("engine", "adapters", "migrations")
SHIPPED = {".py", ".pyi", ".sql", ".mako", ".typed", ".html", ".css", ".js"}
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
OFFLINE = ("--no-index", "--no-deps", "--no-build-isolation")
BUILD_SDIST = "import sys, hatchling.build; print(hatchling.build.build_sdist(sys.argv[1]))"
HOST = """
import pathlib, sys
import adapters, adapters.payments, engine
from guestledger import GuestRequest, Settings, connect
import guestledger.engine.ledger, guestledger.adapters.wiring
site = pathlib.Path(sys.argv[1])
assert pathlib.Path(guestledger.__file__).is_relative_to(site), guestledger.__file__
assert adapters.OWNER == engine.OWNER == adapters.payments.OWNER == "host"
"""
UPGRADE = """
import asyncio, sys
from guestledger.adapters.postgres.admin import migrate
asyncio.run(migrate.upgrade(sys.argv[1]))
"""


def run(*command: str | Path, cwd: Path) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def build_wheel(source: Path, directory: Path) -> Path:
    run(*PIP, "wheel", *OFFLINE, "--wheel-dir", directory, source, cwd=directory)
    (wheel,) = directory.glob("*.whl")
    return wheel


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as opened:
        return opened.namelist()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` directory of a new environment that holds the wheel. Its dependencies are those of this environment."""
    made = tmp_path_factory.mktemp("environment")
    venv.create(made, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(made), "platbase": str(made)}))
    run(*PIP, "--python", made / "bin/python", "install", *OFFLINE, wheel, cwd=made)
    # After the wheel's own directory, and without this environment's .pth files: they would add the source tree.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return made / "bin"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A host application with packages of its own that are named as our folders."""
    for name in ("adapters/__init__.py", "adapters/payments.py", "engine/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('OWNER = "host"\n')
    (tmp_path / "app.py").write_text(HOST)
    return tmp_path


def test_wheel_holds_only_guestledger_and_each_file_once(wheel: Path) -> None:
    names = names_in(wheel)

    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"guestledger"}
    assert {name: times for name, times in Counter(names).items() if times > 1} == {}
    assert not [name for name in names if "__pycache__" in name]


def test_wheel_holds_every_source_file(wheel: Path) -> None:
    package = ROOT / "src/guestledger"
    sources = {path.relative_to(package) for path in package.glob("*.*")}
    sources |= {path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*")}
    shipped = {f"guestledger/{path.as_posix()}" for path in sources if path.suffix in SHIPPED}

    assert {"guestledger/py.typed", "guestledger/migrations/env.py", "guestledger/migrations/script.py.mako"} <= shipped
    assert shipped - set(names_in(wheel)) == set()


def test_wheel_from_the_sdist_is_the_same(wheel: Path, tmp_path: Path) -> None:
    sdist = run(sys.executable, "-c", BUILD_SDIST, tmp_path, cwd=ROOT).strip()

    assert sorted(names_in(build_wheel(tmp_path / sdist, tmp_path))) == sorted(names_in(wheel))


def test_wheel_works_beside_a_hosts_adapters_and_engine(installed: Path, host: Path) -> None:
    run(installed / "python", "app.py", installed.parent, cwd=host)


def test_command_works_beside_a_hosts_adapters_and_engine(installed: Path, host: Path) -> None:
    assert "Usage: guestledger" in run(installed / "guestledger", "--help", cwd=host)


async def test_wheel_can_create_a_ledger(installed: Path, tmp_path: Path, empty_database_url: str) -> None:
    run(installed / "python", "-c", UPGRADE, empty_database_url, cwd=tmp_path)

    connection = await connect_plainly(empty_database_url)
    assert await connection.fetchval("SELECT count(*) FROM guestledger.alembic_version") == 1
    await connection.close()
