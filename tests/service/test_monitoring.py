"""The dashboard and the alerts are about figures that the service has, and Prometheus's own tool takes them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import httpx2
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.contract.trees import ROOT
from tests.service.support import png_bytes

RULES = ROOT / "deploy" / "prometheus"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "convscope.json").read_text())


def expressions() -> list[str]:
    groups = yaml.safe_load((RULES / "convscope.rules.yml").read_text())["groups"]
    asked = [rule["expr"] for group in groups for rule in group["rules"]]
    return asked + [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_every_figure_that_is_asked_for_is_there(client: httpx2.Client) -> None:
    for accept in ("application/json", "image/png"):
        answer = client.post(
            "/v1/feature-maps",
            files=[("image", ("a.png", png_bytes(value=211), "image/png"))],
            headers={"Accept": accept},
        )
        assert answer.status_code == 200
    families = list(text_string_to_metric_families(client.get("/metrics").text))
    samples = [sample for family in families for sample in family.samples]
    known: dict[str, set[str]] = {}
    for sample in samples:
        known.setdefault(sample.name, set()).update(sample.labels)
    for expression in expressions():
        names = set(re.findall(r"convscope_[a-z_]+", expression))
        assert names and names <= known.keys(), expression
        labels = set(re.findall(r"[{,]\s*([a-z]+)[=!]~?=?\"", expression))
        assert labels <= {label for name in names for label in known[name]}, expression


def test_durations_are_counted_by_operation(client: httpx2.Client) -> None:
    def counted() -> dict[str, float]:
        families = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}
        found = {}
        for kind in ("queued", "computed"):
            for sample in families[f"convscope_job_{kind}_seconds"].samples:
                if sample.labels["operation"] == "feature-maps":
                    found[f"{sample.name}{sample.labels.get('le', '')}"] = sample.value
        return found

    files = [("image", ("a.png", png_bytes(value=212), "image/png"))]
    fresh = {"Cache-Control": "no-cache"}
    client.post("/v1/feature-maps", files=files, headers=fresh)
    before = counted()
    timing = client.post("/v1/feature-maps", files=files, headers=fresh).headers["server-timing"]
    after = counted()
    assert re.fullmatch(r"queued;dur=[\d.]+, computed;dur=1\.5", timing)
    grown = {name: after[name] - value for name, value in before.items()}
    assert grown["convscope_job_computed_seconds_count"] == grown["convscope_job_queued_seconds_count"] == 1
    assert grown["convscope_job_computed_seconds_sum"] == pytest.approx(0.0015)
    ends = [name for name in grown if name.startswith("convscope_job_computed_seconds_bucket")]
    assert len(ends) == 16 and all(grown[name] == 1 for name in ends), "1.5 ms lie below every end"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is in Debian's package prometheus")
def test_promtool_takes_the_rules_and_their_tests() -> None:
    for command in (["check", "rules", "convscope.rules.yml"], ["test", "rules", "convscope.rules.test.yml"]):
        done = subprocess.run(
            ["promtool", *command], cwd=RULES, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
        )
        assert done.returncode == 0 and "SUCCESS" in done.stdout, done.stdout


def test_the_dashboard_can_be_laid_out() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places) and all(x + 8 <= 24 for x, _ in places)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)
