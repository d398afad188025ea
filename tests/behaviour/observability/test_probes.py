"""Liveness and readiness over ASGI and WSGI, before, in and after an outage."""

import asyncio
import io
import json

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from agent_memory.observability.probes import asgi_health, wsgi_health
from agent_memory.policy import RetryPolicy
from agent_memory.storage.redis_client import ResilientRedisClient


def wsgi_get(application, path):
    answers = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "wsgi.input": io.BytesIO()}
    body = b"".join(application(environ, lambda status, headers: answers.append(status)))
    return int(answers[0].split()[0]), body


def test_readiness_follows_the_circuit(start_server):
    server = start_server(transport="tcp")
    with ResilientRedisClient("x", **server.connection_kwargs, retry_policy=RetryPolicy(0)) as client:
        application = Starlette()
        application.mount("/health", asgi_health(client))
        web, plain = TestClient(application), wsgi_health(client)
        assert web.get("/health/ready").status_code == 200
        assert wsgi_get(plain, "/ready")[0] == 200
        client.guard.force_open()
        answer = web.get("/health/ready")
        assert answer.status_code == 503
        assert answer.json() == {"sources": [{"healthy": False, "state": "open"}]}
        status, body = wsgi_get(plain, "/ready")
        assert (status, json.loads(body)) == (503, answer.json())
        assert web.get("/health/live").status_code == 200
        assert wsgi_get(plain, "/live")[0] == 200
        assert web.get("/health/other").status_code == 404
        assert wsgi_get(plain, "/other")[0] == 404
        assert web.head("/health/ready").content == b""
        client.guard.reset()
        assert web.get("/health/ready").status_code == 200


def test_what_has_no_health_is_refused():
    with pytest.raises(TypeError, match="source must be"):
        asgi_health(object())
    with pytest.raises(TypeError, match="source must be"):
        wsgi_health(ResilientRedisClient)


def test_a_scope_that_is_no_request_is_left_alone():
    assert asyncio.run(asgi_health()({"type": "lifespan"}, None, None)) is None
