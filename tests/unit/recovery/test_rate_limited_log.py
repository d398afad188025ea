"""An outage must not drown its own log."""

from __future__ import annotations

import logging

from agent_memory.recovery import rate_limited_log as _log


def test_the_first_is_logged_at_once_and_the_rest_together(caplog, monkeypatch):
    now_s = 100.0
    monkeypatch.setattr(_log.time, "monotonic", lambda: now_s)
    warnings = _log.RateLimitedWarnings(logging.getLogger("agent_memory.storage"), "stm")
    for _ in range(1000):
        warnings.add("a HIGH write queued")
    warnings.add("a LOW write dropped")
    assert caplog.messages == ["stm: a HIGH write queued"]
    now_s += _log.INTERVAL_S
    warnings.add("a LOW write dropped")
    assert caplog.messages[1:] == ["stm: a HIGH write queued (999 times), a LOW write dropped (2 times)"]
