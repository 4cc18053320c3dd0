"""The API under test: the app in the process of the tests, or through uWSGI with --uwsgi."""

import logging

import pytest
from support.clients import InProcess
from support.processes import SECRET

import db
from app import app
from resources import settings


@pytest.fixture(scope="session")
def in_process(mongod, tmp_path_factory):
    """The app in this process, with the database and the settings of the production server."""
    # settings.py has read the environment of this process, which has no MONGODB_URI.
    settings.DATABASE = mongod.uri.rpartition("/")[2]
    db.init_app(app, mongod.uri)
    app.config.update(
        JWT_SECRET_KEY=SECRET,
        BEHIND_ROUTER=True,
        # A crash ends the test, and `--pdb` stops where it happened. In production it is a 500.
        PROPAGATE_EXCEPTIONS=True,
    )
    log = tmp_path_factory.mktemp("in_process") / "log"
    app.logger.addHandler(logging.FileHandler(log))
    return InProcess(app, log)


@pytest.fixture
def api(request, database):
    """The API, with an empty database."""
    uwsgi = request.config.getoption("--uwsgi")
    return request.getfixturevalue("server" if uwsgi else "in_process")
