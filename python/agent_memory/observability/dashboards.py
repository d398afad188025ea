"""The Grafana dashboard over the metrics that `PrometheusCollector` exports."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

__all__ = ["dashboard"]


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it: `json.dump(dashboard(), file)`. Each call returns a copy of its own."""
    text = files("agent_memory.observability").joinpath("grafana_dashboard.json").read_text(encoding="utf-8")
    made: dict[str, Any] = json.loads(text)
    return made
