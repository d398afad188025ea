"""FastAPI: an application with a client of its own, through an outage; it starts while the server is away, too."""

# needs: fastapi httpx
from fastapi.testclient import TestClient
from outage import Outage


class Unavailable(Exception):
    """An answer of 503."""


with Outage() as outage:
    page = outage.page("fastapi")
    with TestClient(page.app) as browser:

        def visit():
            answer = browser.post("/visits/home")
            if answer.status_code == 503 and browser.get("/health").status_code == 503:
                raise Unavailable
            assert answer.status_code == 200, answer.text
            return answer.json()["visits"]

        assert [visit(), visit()] == [1, 2]
        assert browser.get("/health").status_code == 200
        outage.endure(visit, is_rejection=lambda error: isinstance(error, Unavailable))
        assert browser.get("/health").json()["redis"] == "closed"
    outage.server.kill()
    with TestClient(page.app) as browser:
        assert browser.post("/visits/home").status_code == 503
