"""What the tests of `python app.py` need."""

import signal
import sys

import pytest
from support.processes import Server, is_open


@pytest.fixture
def no_mongodb():
    """MongoDB's default port, free."""
    if is_open(27017):
        pytest.skip("port 27017 is in use on this machine")


@pytest.fixture
def start_app(copy, tmp_path):
    """Start `python app.py` without a secret and, by default, without a MongoDB.

    It runs in a copy of the project, and ends with the test.
    """
    servers = []

    def start_app(uri=None, **settings):
        settings = {"JWT_SECRET_KEY": None} | settings
        log = tmp_path / f"log{len(servers)}"
        servers.append(Server([sys.executable, "app.py"], log, uri, cwd=copy, **settings))
        return servers[-1]

    yield start_app
    for server in servers:
        if server.process.poll() is None:
            # Not by `kill`: this way the app waits for the end of its MongoDB.
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(60)
        server.kill()
