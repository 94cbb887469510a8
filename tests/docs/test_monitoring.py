"""The dashboard and the alert rules name only metrics that a scrape has, and the page explains each of them."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from guestledger.adapters.telemetry.gauges import gauge_families
from guestledger.adapters.telemetry.measurements import Measurements
from guestledger.adapters.telemetry.prometheus import _counted
from guestledger.engine.domain.session import Status
from guestledger.engine.operations.gauges import Gauges
from tests.docs.blocks import ROOT

RULES = ROOT / "docs" / "prometheus" / "alerts.yml"
DASHBOARD = ROOT / "docs" / "grafana" / "dashboard.json"
PAGE = (ROOT / "docs" / "observability.md").read_text()
# Those of the process, and what Prometheus itself adds of each target.
OTHERS = {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"}
EMPTY = Gauges(
    now=datetime(2024, 5, 20, tzinfo=UTC),
    steps=(),
    backlog=0,
    backlog_seconds=0.0,
    owed_webhooks=0,
    doubtful=dict.fromkeys((Status.IN_DOUBT, Status.PARKED), 0),
    limiters={},
    projections=(),
    consumers=(),
)


def exported() -> set[str]:
    """The names of our metrics, as they are queried."""
    names = set()
    for family in (*_counted(Measurements()), *gauge_families(EMPTY)):
        parts = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        names |= {family.name + part for part in parts}
    return names


def queried(text: str) -> set[str]:
    return set(re.findall(r"\b(?:guestledger|process)_[a-z_]+", text))


def expressions() -> Iterator[str]:
    board: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return (target["expr"] for panel in board["panels"] for target in panel.get("targets", ()))


def test_every_metric_of_the_dashboard_is_exported():
    assert set().union(*map(queried, expressions())) <= exported() | OTHERS


def test_every_metric_of_the_alerts_is_exported():
    found = queried("\n".join(re.findall(r"expr: (.+?)\n +(?:for|labels):", RULES.read_text(), re.DOTALL)))
    assert len(found) > 10
    assert found <= exported()


def test_every_metric_is_explained_on_the_page():
    missing = {name for name in exported() if re.sub(r"_(bucket|sum|count)$", "", name) not in PAGE}
    assert missing == set()
    assert queried(PAGE) <= exported() | OTHERS | {re.sub(r"_bucket$", "", name) for name in exported()}


def test_every_runbook_of_an_alert_is_a_section_of_the_operations_page():
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    text = RULES.read_text()
    runbooks = re.findall(r"runbook_url: docs/operations\.md#(\S+)", text)
    assert len(runbooks) == text.count("- alert:") > 10
    assert set(runbooks) <= anchors


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_the_alert_rules():
    checked = subprocess.run(["promtool", "check", "rules", RULES], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
