"""MongoDB: the client, the collections with their indexes, and what happens while it is away."""

import sys
import time

from flask_pymongo import PyMongo
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError, WriteConcernError
from pymongo.write_concern import WriteConcern

# The database of a URI that names none, as those that Atlas hands out.
DATABASE = "todolistapp"

mongo = PyMongo()

# Until when this process refuses all queries at once, by time.monotonic(). See `note_failure`.
_away_until = 0.0
# Whether this process has made the indexes. See `_make_indexes`.
_indexes_are_made = False


class DatabaseAway(PyMongoError):
    """Raised instead of a query: MongoDB was away a moment ago, so this one was not even sent."""


def init_app(app, uri):
    """Set up the client for `uri`. Ends the process with one line if `uri` is malformed.

    The client connects at the first query, not here: uWSGI loads the app once and then copies the
    process (it forks), and a connection must not be shared by two processes.
    """
    try:
        mongo.init_app(
            app,
            uri,
            # A write is acknowledged when most members of the database have it on their disks.
            # By default a stand-alone MongoDB acknowledges before that, and when it is killed it
            # loses the last writes that it had acknowledged.
            w="majority",
            journal=True,
            # A logout must hold at once, so nothing is read from a member that lags behind.
            readPreference="primary",
            # How long one operation may take. By default it waits 30 seconds for a MongoDB that
            # is away, and by then Heroku's router has given up.
            timeoutMS=3000,
        )
        mongo.db = mongo.cx.get_default_database(DATABASE)
    except (PyMongoError, ValueError):
        # PyMongo's own message is not shown: it can contain a part of the password.
        sys.exit(
            "MONGODB_URI is no connection string, or its mongodb+srv host is not in the DNS. It"
            " must look like mongodb+srv://USER:PASSWORD@HOST/todolistapp, with the characters"
            " : / ? # [ ] @ in the password written as %3A %2F and so on"
        )


# The collections. Each is a call, since it can raise: DatabaseAway, or any error of MongoDB while
# the indexes are made.


def users():
    """The users: `username`, `password` (its hash), `password_id` (see resources/user.py)."""
    return _collection("users")


def todos():
    """The todos of all users. `owner_id` says whose each one is."""
    return _collection("todos")


def blacklist():
    """What has been revoked. Only blacklist.py uses it."""
    return _collection("blacklist")


def guesses():
    """The counts of wrong passwords. Only resources/guesses.py uses it.

    These writes are acknowledged before they are on the disk, which is faster. If one is lost when
    MongoDB is killed, somebody may guess once more than the limit: that does no harm.
    """
    return _collection("guesses").with_options(write_concern=WriteConcern(w=1))


def _collection(name):
    """A collection that is ready to be asked."""
    _refuse_while_away()
    _make_indexes()
    return mongo.db[name]


def _refuse_while_away():
    """Raise DatabaseAway during the second that follows a failed connection."""
    if time.monotonic() < _away_until:
        raise DatabaseAway("not asked, since the connection failed less than a second ago")


def _make_indexes():
    """Make all indexes, once in each process, before its first query.

    Not when the app is loaded, since MongoDB need not be there yet. An index that exists already
    stays as it is, so making it again costs nothing. If you add one to a collection of millions of
    documents, make it in mongosh first: it takes longer than `timeoutMS`.
    """
    global _indexes_are_made
    if _indexes_are_made:
        return
    # This index, not a look-up, decides who gets a name: it refuses a second user of that name.
    mongo.db.users.create_index("username", unique=True)
    # These hold each user's todos in the order of the list, so a page is one piece of an index.
    mongo.db.todos.create_index([("owner_id", 1), ("created_at", 1), ("_id", 1)])
    mongo.db.todos.create_index([("owner_id", 1), ("done", 1), ("created_at", 1), ("_id", 1)])
    # With these MongoDB itself deletes a document within about a minute after its `expires_at`.
    mongo.db.blacklist.create_index("expires_at", expireAfterSeconds=0)
    mongo.db.guesses.create_index("expires_at", expireAfterSeconds=0)
    _indexes_are_made = True


# Codes of MongoDB for "this client may do nothing here". They are an outage, not a bug: the code is
# right, and whoever runs the database has to act. 13: no permission. 18: wrong name or password.
# 8000: Atlas refuses, for instance because the free cluster is full. 14031: the disk is full.
REFUSED = {13, 18, 8000, 14031}


def is_outage(error):
    """Whether this error means that MongoDB cannot serve us now. Any other is a bug of ours."""
    if isinstance(error, DatabaseAway):
        return True
    # The connection failed, or no member of the database is the primary just now.
    if isinstance(error, ConnectionFailure):
        return True
    # Too few members of the database have confirmed a write.
    if isinstance(error, WriteConcernError):
        return True
    # MongoDB is there and took longer than `timeoutMS`.
    if error.timeout:
        return True
    return isinstance(error, OperationFailure) and error.code in REFUSED


def note_failure(error):
    """After a failed connection, refuse all queries of this process at once for a second.

    Otherwise the requests that queue for a thread would wait 3 seconds each, one after another.

    DatabaseAway does not count here. It says that MongoDB was not asked, so it says nothing about
    MongoDB. If it counted, each refused request of a busy process would begin the wait anew, and
    the process would never find out that MongoDB is back.
    """
    global _away_until
    if isinstance(error, ConnectionFailure):
        _away_until = time.monotonic() + 1
