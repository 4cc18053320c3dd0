"""The fixtures: a MongoDB and a server for all tests, an empty database and two users for each."""

import sys

import psutil
import pytest
from pymongo import MongoClient

# Before the import, so that a comparison that fails there shows both sides, as it does in a test.
pytest.register_assert_rewrite("support.clients")

from support.clients import InsertedUser  # noqa: E402
from support.processes import (  # noqa: E402
    SECRET,
    Mongod,
    Server,
    copy_project,
    empty,
    procfile_command,
)


def pytest_addoption(parser):
    parser.addoption(
        "--uwsgi",
        action="store_true",
        help="run tests/api through uWSGI, and not in the process of the tests",
    )
    parser.addoption(
        "--update",
        action="store_true",
        help="write the responses of the API into the READMEs and the Postman collection",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Show, below a test that failed, the end of the log of each server that it has used."""
    report = yield
    if report.failed:
        fixtures = getattr(item, "funcargs", {}).values()
        logs = {value.log for value in fixtures if isinstance(value, Server)}
        for log in logs:
            report.sections.append((f"end of {log}", log.read_text()[-3000:]))
    return report


@pytest.fixture(scope="session")
def update(pytestconfig):
    """Whether to write the current responses into the documents, instead of comparing them."""
    return pytestconfig.getoption("--update")


# MongoDB and servers.


@pytest.fixture(scope="session")
def mongod(tmp_path_factory):
    """A MongoDB for all tests that do not stop it."""
    mongod = Mongod(tmp_path_factory.mktemp("mongod"))
    yield mongod
    mongod.kill()


@pytest.fixture(scope="session")
def mongo_client(mongod):
    """A client of this MongoDB for all tests, because creating one takes longer than most tests."""
    with MongoClient(mongod.uri) as client:
        yield client


@pytest.fixture
def database(mongo_client):
    """The database of the servers, empty."""
    database = mongo_client.get_default_database()
    empty(database)
    return database


@pytest.fixture(scope="session")
def server(mongod, tmp_path_factory):
    """One production server for all tests that need no special settings."""
    server = Server(procfile_command(), tmp_path_factory.mktemp("server") / "log", mongod.uri)
    yield server.wait()
    server.stop()


@pytest.fixture
def api(server, database):
    """The production server, with an empty database."""
    return server


@pytest.fixture
def copy(tmp_path):
    """A copy of the project for one test."""
    return copy_project(tmp_path / "copy")


@pytest.fixture(scope="session")
def development_server(mongod, tmp_path_factory):
    """`python app.py` for all tests, with the database and the secret of the production server."""
    folder = tmp_path_factory.mktemp("development")
    # In a copy, because the server starts again whenever you save one of its files.
    project = copy_project(folder / "copy")
    command = [sys.executable, "app.py"]
    server = Server(command, folder / "log", mongod.uri, cwd=project, JWT_SECRET_KEY=SECRET)
    yield server.wait()
    # First the process that serves, which saves its coverage. Its parent would kill it.
    for serving in psutil.Process(server.process.pid).children():
        serving.terminate()
    server.process.wait(60)
    server.stop()


@pytest.fixture
def start(tmp_path):
    """Start any number of production servers; they end with the test.

    Most of them are put under load, or their response times are judged, so they are not measured
    unless a test needs it.
    """
    servers = []

    def start(uri, wait=True, command=None, options=(), measured=False, **settings):
        command = command or procfile_command()
        if options:
            # Without --ini, uWSGI reads the file after the options, and the file wins.
            command = [command[0], "--ini", *command[1:], *options]
        log = tmp_path / f"log{len(servers)}"
        server = Server(command, log, uri, measured=measured, **settings)
        servers.append(server)
        return server.wait() if wait else server

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def own_mongod(tmp_path):
    """A MongoDB for one test, which can kill it."""
    mongod = Mongod(tmp_path / "mongod")
    yield mongod
    mongod.kill()


# Users.


@pytest.fixture
def alice(api, database):
    """A user with a session."""
    return InsertedUser(api, database, "alice")


@pytest.fixture
def bob(api, database):
    """Another user with a session."""
    return InsertedUser(api, database, "bob")
