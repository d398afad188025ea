"""What monitoring sees of clients and memory systems.

- `prometheus`: `PrometheusCollector`, for the extra `prometheus`.
- `opentelemetry`: `OpenTelemetryMetrics`, and `tracing`: `instrument()`, for the extra `otel`.
- `dashboard()`: a Grafana dashboard over the Prometheus metrics.

Each module needs its extra when it is imported; nothing here is imported by clients.
"""

from __future__ import annotations

from agent_memory.observability.dashboards import dashboard
from agent_memory.observability.metrics import METRICS, Metric

__all__ = ["METRICS", "Metric", "dashboard"]
