"""The dashboard and the alerts ask for nothing but what poolguard tells."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from .promql import LABELS, METRICS, TARGET, names_in

EXAMPLES = Path(__file__).parent.parent / "examples"
DASHBOARD = json.loads((EXAMPLES / "grafana/dashboard.json").read_text())
ALERTS = EXAMPLES / "prometheus/alerts.yml"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
]
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
TARGETS = [
    pytest.param(target, id=f"{panel['title']}, {target['refId']}")
    for panel in PANELS
    for target in panel.get("targets", ())
]


def assert_known(query: str) -> None:
    """Each metric is one of ours, and each label one that a metric of the query has."""
    names = names_in(query)
    assert names.metrics
    assert names.metrics <= METRICS.keys()
    assert names.labels <= TARGET.union(*(METRICS[metric] for metric in names.metrics))


# -- the dashboard -----------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_a_panel_asks_for_what_there_is(target: dict[str, Any]) -> None:
    assert_known(target["expr"])
    assert set(re.findall(r"{{(.*?)}}", target["legendFormat"])) <= LABELS
    variables = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
    assert variables <= {each["name"] for each in DASHBOARD["templating"]["list"]}


def test_each_panel_says_what_it_shows() -> None:
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"]


def test_no_panel_lies_upon_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken
        taken |= cells


def test_the_variables_choose_from_what_there_is() -> None:
    source, *others = DASHBOARD["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == (
        "datasource",
        "datasource",
        "prometheus",
    )
    for each in others:
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", each["query"]["query"])
        assert found is not None
        assert_known(found[1])
        assert found[2] in TARGET.union(*(METRICS[name] for name in names_in(found[1]).metrics))


def test_everything_comes_from_the_source_that_is_chosen() -> None:
    sources = [each["datasource"] for panel in PANELS for each in panel.get("targets", ())]
    assert sources
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)


def test_every_metric_has_a_panel() -> None:
    """But for the old name of limit, and for those that say little or are off by default."""
    shown = {
        name
        for panel in PANELS
        for target in panel.get("targets", ())
        for name in names_in(target["expr"]).metrics
    }
    left_out = ("idle_min", "idle_max", "connection_max", "use_time", "_sum", "_count")
    expected = {name for name in METRICS if not any(part in name for part in left_out)}
    assert shown >= expected


# -- the alerts --------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_what_there_is_and_says_what_to_do(rule: dict[str, Any]) -> None:
    assert_known(rule["expr"])
    assert rule["for"]
    assert rule["labels"]["severity"] in ("warning", "critical")
    texts = rule["annotations"]
    assert texts.keys() == {"summary", "description"}
    labels = set(re.findall(r"\$labels\.(\w+)", " ".join(texts.values())))
    assert labels <= names_in(rule["expr"]).labels, "an aggregation leaves no other"


def test_prometheus_takes_the_alerts() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    subprocess.run([promtool, "check", "rules", str(ALERTS)], check=True, capture_output=True)


# -- how a query is read -----------------------------------------------------------------------


def test_names_in_a_query() -> None:
    query = (
        'sum by (job, le) (rate(a_total{b=~"x(y{z", c!="d"}[5m] offset 5m)) / on (job) '
        "group_left (e) max(f) > bool 1e3"
    )
    names = names_in(query)
    assert names.metrics == {"a_total", "f"}
    assert names.labels == {"job", "le", "b", "c", "e"}


@pytest.mark.parametrize(
    "query", ["sum(a", "a)", "a{b}", "rat(a[5m])", "a # b", "sum by (job) (a}"]
)
def test_what_is_no_query_is_refused(query: str) -> None:
    with pytest.raises(ValueError, match=r"no function|clos|compared|not read"):
        names_in(query)
