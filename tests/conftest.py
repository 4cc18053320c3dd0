"""The fixtures: a MongoDB and a server for all tests, an empty database and two users for each."""

import pytest
from pymongo import MongoClient

# Before helpers.py is imported: a comparison that fails there then shows both sides, as in a test.
pytest.register_assert_rewrite("helpers")

from helpers import Mongod, Server, User, procfile_command  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="also run the tests that take minutes")
    parser.addoption(
        "--update",
        action="store_true",
        help="write the answers that come into README.md and the Postman collection",
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes many seconds; runs only with --all")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--all"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="takes many seconds; run with --all"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Below a test that failed, show the end of the log of the server that it talked to."""
    report = yield
    server = item.funcargs.get("api") if hasattr(item, "funcargs") else None
    if report.failed and server:
        report.sections.append(("the server's log", server.log.read_text()[-3000:]))
    return report


@pytest.fixture(scope="session")
def update(pytestconfig):
    """Whether to write down what the server answers now, in place of what is shown."""
    return pytestconfig.getoption("--update")


@pytest.fixture(scope="session")
def mongod(tmp_path_factory):
    mongod = Mongod(tmp_path_factory.mktemp("mongod"))
    yield mongod
    mongod.kill()


@pytest.fixture(scope="session")
def server(mongod, tmp_path_factory):
    """One production server for all tests that need nothing special of it."""
    server = Server(procfile_command(), tmp_path_factory.mktemp("server") / "log", mongod.uri)
    yield server.wait()
    server.kill()


@pytest.fixture
def database(mongod):
    """The server's database, empty."""
    with MongoClient(mongod.uri) as client:
        database = client.get_default_database()
        for name in ("users", "todos", "blacklist", "guesses"):
            database[name].delete_many({})  # Not dropped: that would take the indexes along.
        yield database


@pytest.fixture
def api(server, database):
    """The server, with nothing stored."""
    return server


@pytest.fixture
def alice(api):
    return User(api, "alice")


@pytest.fixture
def bob(api):
    return User(api, "bob")


@pytest.fixture
def start(tmp_path):
    """Start any number of production servers; they end with the test."""
    servers = []

    def start(uri, wait=True, options=(), **settings):
        command = procfile_command()
        if options:
            # Without --ini, uWSGI reads the file after the options, and the file wins.
            command = [command[0], "--ini", command[1], *options]
        server = Server(command, tmp_path / f"log{len(servers)}", uri, **settings)
        servers.append(server)
        return server.wait() if wait else server

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def own_mongod(tmp_path):
    """A MongoDB of the test's own, to be killed."""
    mongod = Mongod(tmp_path / "mongod")
    yield mongod
    mongod.kill()


@pytest.fixture
def breakable(tmp_path):
    """A MongoDB that can be told to fail at a command: MongoDB's own fail points, for tests."""
    mongod = Mongod(tmp_path / "breakable", ["--setParameter", "enableTestCommands=1"])
    yield mongod
    mongod.kill()
