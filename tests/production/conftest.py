"""What the tests of production need: uWSGI, and a MongoDB that fails at a chosen operation."""

import shutil

import pytest
from pymongo import MongoClient
from support.faults import FailPoint
from support.processes import CLEAN, Mongod


@pytest.fixture(scope="session", autouse=True)
def uwsgi():
    """Skip all tests of this folder where uWSGI does not run."""
    if not shutil.which("uwsgi", path=CLEAN["PATH"]):
        pytest.skip("needs uWSGI, which does not run on Windows")


@pytest.fixture(scope="session")
def failing_mongod(tmp_path_factory):
    """A MongoDB for `fail_point`. No test kills it."""
    options = ["--setParameter", "enableTestCommands=1"]
    mongod = Mongod(tmp_path_factory.mktemp("failing"), options)
    yield mongod
    mongod.kill()


@pytest.fixture
def fail_point(failing_mongod):
    """The fail point of `failing_mongod`, whose database is empty."""
    with MongoClient(failing_mongod.uri) as client:
        database = client.get_default_database()
        for name in database.list_collection_names():
            database[name].delete_many({})
        fail_point = FailPoint(client)
        yield fail_point
        fail_point.clear()
