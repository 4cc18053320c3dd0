"""MongoDB: the client, the collections with their indexes, and what an outage is."""

import functools
import re
import sys
import time

from bson.codec_options import CodecOptions
from flask_pymongo import PyMongo
from pymongo import ReadPreference
from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
)
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

# The database of a URI that names none. Atlas hands out such URIs.
DATABASE = "todolistapp"

mongo = PyMongo()


def init_app(app, uri):
    """Set up the client for `uri`. Ends the process with one line if `uri` is malformed.

    The client connects at the first query and not here. uWSGI loads the app once and then copies
    the process (it forks), and two processes must not share a connection.
    """
    try:
        mongo.init_app(
            app,
            uri,
            # The most milliseconds that one operation may take. By default PyMongo waits 30 seconds
            # for an unavailable MongoDB, and by then Heroku's router has given up.
            timeoutMS=3000,
        )
        # The URI can hold options, and some of them change what PyMongo returns or acknowledges.
        # What this code relies on is set here, whatever the URI says.
        mongo.db = mongo.cx.get_default_database(
            DATABASE,
            codec_options=CodecOptions(),
            # A logout takes effect immediately, so no query goes to a member that lags behind.
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern(),
            # MongoDB acknowledges a write when a majority of its members has it on disk. By default
            # a stand-alone MongoDB acknowledges earlier. If it is killed then, it loses writes that
            # it has acknowledged.
            write_concern=WriteConcern("majority", j=True),
        )
    except (PyMongoError, ValueError):
        # PyMongo's own message can contain a part of the password, so it is not shown.
        sys.exit(
            "MONGODB_URI is not a connection string, has an option that PyMongo rejects, or its"
            " mongodb+srv host is not in the DNS. It must look like"
            " mongodb+srv://USER:PASSWORD@HOST/todolistapp, with the characters : / ? # [ ] @ in"
            " the password written as %3A %2F and so on"
        )
    # The database's name is between the hosts and the options. MongoDB allows more characters than
    # this check. But a stray character is a mistake, and would silently choose another database.
    name = uri.partition("://")[2].partition("/")[2].partition("?")[0]
    if not re.fullmatch("[A-Za-z0-9_-]*", name):
        sys.exit("MONGODB_URI must name a database of letters, digits, _ and -, or none at all")


# The collections. Each is a function, because it can raise DatabaseUnavailable, or any error of
# MongoDB while the indexes are created.


def users():
    """Return the collection of users: `username`, `password` (its hash), `sessions` (their ids)."""
    return _collection("users")


def todos():
    """Return the collection of all users' todos. `owner_id` is the `_id` of the user."""
    return _collection("todos")


def rate_limits():
    """Return the collection of attempts. Only resources/rate_limits.py uses it.

    MongoDB acknowledges these writes before they are on the disk, which is faster. If MongoDB is
    killed and loses one, an attacker has one more attempt.
    """
    return _collection("rate_limits").with_options(write_concern=WriteConcern(w=1))


def _collection(name):
    outage.check()
    _create_indexes()
    return mongo.db[name]


@functools.cache
def _create_indexes():
    """Create all indexes before the first query of each process.

    The app creates none while it is loaded, because MongoDB may be unavailable then. `cache`
    remembers that the function has returned, so later calls do nothing; if it raises, the next call
    runs it again.
    MongoDB skips an index that exists. Before you add one to a collection of millions of documents,
    create it in mongosh, because this takes longer than `timeoutMS`.
    """
    # This unique index decides who gets a username: MongoDB rejects a second user with the name.
    mongo.db.users.create_index("username", unique=True)
    # These hold each user's todos in the order of the list, so a page is one range of an index.
    mongo.db.todos.create_index([("owner_id", 1), ("created_at", 1), ("_id", 1)])
    mongo.db.todos.create_index([("owner_id", 1), ("done", 1), ("created_at", 1), ("_id", 1)])
    # With this one MongoDB deletes a document within about a minute after its `expires_at`.
    mongo.db.rate_limits.create_index("expires_at", expireAfterSeconds=0)


# Outages.


class DatabaseUnavailable(PyMongoError):
    """Raised in place of a query, because a connection failed less than a second ago."""


class Outage:
    """The second after a failed connection, in which this process sends no query.

    Without it, requests that queue for a thread would wait 3 seconds each, one after another.
    """

    def __init__(self):
        self.ends_at = 0.0

    def begin(self, error):
        """Let `check` raise during the next second, if `error` is a failed connection.

        DatabaseUnavailable is not a failed connection: no query was sent, so the error says nothing
        about MongoDB. If it counted, each rejected request would prolong the outage, and a busy
        process would never find out that MongoDB is available again.
        """
        if isinstance(error, ConnectionFailure):
            self.ends_at = time.monotonic() + 1

    def check(self):
        """Raise DatabaseUnavailable if the second is not over."""
        if time.monotonic() < self.ends_at:
            raise DatabaseUnavailable("no query sent: the connection failed a moment ago")


outage = Outage()

# MongoDB's error codes for a refusal that only an operator can end, so they are an outage and not a
# bug. 13: no permission. 18: wrong name or password. 8000: Atlas refuses, for example because the
# free cluster is full. 14031: the disk is full.
REFUSED = {13, 18, 8000, 14031}


def is_outage(error):
    """Return whether `error` means that MongoDB is unavailable. Any other error is a bug here."""
    if isinstance(error, DatabaseUnavailable):
        return True
    # The connection failed, or no member of the database is the primary at present.
    if isinstance(error, ConnectionFailure):
        return True
    # Too few members of the database have confirmed a write.
    if isinstance(error, WriteConcernError):
        return True
    # The same in a bulk write, if none of the writes has failed.
    if isinstance(error, BulkWriteError):
        return not error.details["writeErrors"]
    # MongoDB is running and took longer than `timeoutMS`.
    if error.timeout:
        return True
    return isinstance(error, OperationFailure) and error.code in REFUSED
