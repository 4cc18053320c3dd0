"""What the tests of production need: uWSGI, and a MongoDB that fails at a chosen operation."""

import shutil

import pytest
from pymongo import MongoClient
from support.faults import WITH_FAIL_POINTS, FailPoint
from support.processes import CLEAN, Mongod, empty
from support.proxy import Proxy


@pytest.fixture(scope="session", autouse=True)
def uwsgi():
    """Skip all tests of this folder where uWSGI does not run."""
    if not shutil.which("uwsgi", path=CLEAN["PATH"]):
        pytest.skip("needs uWSGI, which does not run on Windows")


@pytest.fixture(scope="session")
def failing_mongod(tmp_path_factory):
    """A MongoDB for `fail_point`. No test kills it."""
    mongod = Mongod(tmp_path_factory.mktemp("failing"), WITH_FAIL_POINTS)
    yield mongod
    mongod.kill()


@pytest.fixture(scope="module")
def failing_proxy(failing_mongod):
    """A proxy before `failing_mongod`, one for all tests of a file."""
    proxy = Proxy(failing_mongod)
    yield proxy
    proxy.close()


@pytest.fixture
def failing_database(failing_mongod):
    """The database of servers that use `failing_mongod`, empty."""
    with MongoClient(failing_mongod.uri) as client:
        database = client.get_default_database()
        empty(database)
        yield database


@pytest.fixture
def fail_point(failing_database):
    """The fail point of `failing_mongod`, whose database is empty."""
    fail_point = FailPoint(failing_database.client)
    yield fail_point
    fail_point.clear()


@pytest.fixture
def breakable(tmp_path):
    """A MongoDB with fail points for one test, which can kill it."""
    mongod = Mongod(tmp_path / "breakable", WITH_FAIL_POINTS)
    yield mongod
    mongod.kill()
