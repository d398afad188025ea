"""Flask-Session: an application that counts visits, through an outage."""

# needs: flask flask_session
from outage import Outage


class Unavailable(Exception):
    """An answer of 503."""


with Outage() as outage:
    page = outage.page("flask-session")
    browser = page.app.test_client()

    def visit():
        answer = browser.get("/visits")
        if answer.status_code == 503:
            raise Unavailable
        assert answer.status_code == 200
        return answer.json["visits"]

    assert [visit(), visit()] == [1, 2]
    outage.endure(visit, is_rejection=lambda error: isinstance(error, Unavailable))
