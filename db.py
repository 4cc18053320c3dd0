"""MongoDB: the client, the collections with their indexes, and what an outage is."""

import sys

from bson.codec_options import CodecOptions
from flask_pymongo import PyMongo
from pymongo import IndexModel, ReadPreference
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    InvalidName,
    InvalidOperation,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
)
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from resources import settings

# The database of a URI that names none. Atlas hands out such URIs.
DATABASE = "todolistapp"

# How many connections one process opens at most; a request that finds all in use waits for one.
# Two dynos of two processes then stay below the 500 that a free Atlas cluster allows in all.
MOST_CONNECTIONS = 100

mongo = PyMongo()


def init_app(app, uri):
    """Set up the client for `uri`. Ends the process with one line if `uri` is malformed.

    The client connects at the first query and not here. uWSGI loads the app once and then copies
    the process (it forks), and two processes must not share a connection.
    """
    try:
        mongo.init_app(app, uri, maxPoolSize=MOST_CONNECTIONS)
        # The URI can hold options, and some of them change what PyMongo returns or acknowledges.
        # What this code relies on is set here, whatever the URI says.
        mongo.db = mongo.cx.get_database(
            settings.DATABASE or DATABASE,
            codec_options=CodecOptions(),
            # A logout takes effect immediately, so no query goes to a member that lags behind.
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern(),
            # MongoDB acknowledges a write when a majority of its members has it on disk. By default
            # a stand-alone MongoDB acknowledges earlier. If it is killed then, it loses writes that
            # it has acknowledged.
            write_concern=WriteConcern("majority", j=True),
        )
    except (PyMongoError, ValueError, TypeError, KeyError, OSError):
        # PyMongo's own message can contain a part of the password, so it is not shown. OSError: a
        # file that the URI names, such as tlsCAFile, cannot be read. TypeError and KeyError: some
        # options, such as server_api, are for programs alone, and PyMongo does not expect them.
        sys.exit(
            "MONGODB_URI is not a connection string, has an option that PyMongo rejects, names a"
            " file that cannot be read, or its mongodb+srv host is not in the DNS. It must look"
            " like mongodb+srv://USER:PASSWORD@HOST/todolistapp, with the characters"
            " : / ? # [ ] @ % + in the password written as %3A %2F and so on"
        )


# The collections.


def users():
    """Return the collection of users. resources/user.py describes a document."""
    return mongo.db.users


def todos():
    """Return the collection of all users' todos. `owner_id` is the `_id` of the user."""
    return mongo.db.todos


def rate_limits():
    """Return the collection of attempts. Only resources/rate_limits.py uses it.

    MongoDB acknowledges these writes before they are on the disk, which is faster. If MongoDB is
    killed and loses one, an attacker has one more attempt.
    """
    return mongo.db.rate_limits.with_options(write_concern=WriteConcern(w=1))


def create_indexes():
    """Create all indexes. Raises IndexesRefused if MongoDB cannot create one.

    Every registration calls this before it inserts the user, even if the indexes exist: MongoDB
    then skips them, in a fraction of the time of a password hash. So no user is inserted without
    the index that keeps usernames unique, whatever an operator has dropped or restored.
    Before you add an index to a collection of millions of documents, create it in mongosh, because
    this takes longer than a request may take.
    """
    try:
        # This one decides who gets a username: MongoDB rejects a second user with the name.
        users().create_index("username", unique=True)
        # These hold each user's todos in the order of the list, so a page is one range of an index.
        todos().create_indexes(
            [
                IndexModel([("owner_id", 1), ("created_at", 1), ("_id", 1)]),
                IndexModel([("owner_id", 1), ("done", 1), ("created_at", 1), ("_id", 1)]),
            ]
        )
        # With this one MongoDB deletes a document within about a minute after its `expires_at`.
        rate_limits().create_index("expires_at", expireAfterSeconds=0)
    except OperationFailure as error:
        raise IndexesRefused(error) from None


# Outages.

# The codes with which MongoDB says that a query is wrong in itself, which is a bug of this program:
# BadValue, FailedToParse, TypeMismatch and so on. tests/README.md explains each. With any other
# code MongoDB could execute the same query at another time, or with other settings.
MISTAKES = {2, 9, 14, 15, 16, 22, 28, 34, 40, 52, 53, 54, 55, 56, 57, 66, 72, 168, 241, 378}
MISTAKES |= {10334, 11000}

# What an operator has to do, for codes that waiting does not cure.
ADVICE = {
    13: "the user in MONGODB_URI needs the role readWrite on this database",
    18: "the username or the password in MONGODB_URI is wrong, or authSource=admin is missing",
    59: "this is not MongoDB 4.4 or newer, or a product without one of its commands",
    8000: "Atlas refuses: the password may be wrong, rights missing, or the free cluster full",
    13297: "a database exists whose name differs only in upper and lower case: change MONGODB_URI",
    14031: "the disk is full",
}


class IndexesRefused(PyMongoError):
    """Raised by `create_indexes`: an operator has to find out what prevents an index."""

    def __init__(self, error):
        """Describe the refusal without the server's message, which can hold a username."""
        super().__init__(
            f"MongoDB cannot create the indexes of db.py: {describe(error)}. If the code is 11000,"
            " two users have the same username: delete one. If it is 67, 85 or 86, an index with"
            " other options is there: drop it in mongosh"
        )


def is_outage(error):
    """Return whether `error` means that MongoDB is unavailable. Any other error is a bug here.

    It is unavailable if time or an operator can remove the cause: a failed connection, a replica
    set that elects a new primary, a full pool of connections, a deadline that is over, missing
    rights, a full disk, a product that only imitates MongoDB.
    """
    if isinstance(error, OperationFailure):
        return reply(error).get("code") not in MISTAKES
    # These two say that this program has called PyMongo wrongly.
    return not isinstance(error, (InvalidName, InvalidOperation))


def reply(error):
    """Return the document in which MongoDB describes an error, {} if it has not responded."""
    details = getattr(error, "details", None) or {}
    if isinstance(error, BulkWriteError):
        # Several operations. The first that has failed says enough.
        details = (details["writeErrors"] + details["writeConcernErrors"])[0]
    return details


def describe(error):
    """Return an error of PyMongo for the log, without what the server says about a document."""
    name = type(error).__name__
    if isinstance(error, IndexesRefused):
        return str(error)
    if isinstance(error, (OperationFailure, NotPrimaryError)):
        # The server's message can hold the query or the key of a document. Its name is safe.
        code, code_name = reply(error).get("code"), reply(error).get("codeName", "no name")
        advice = ADVICE.get(code)
        return f"{name}, code {code} ({code_name})" + (f": {advice}" if advice else "")
    if isinstance(error, ConfigurationError):
        return f"{name}: {error}. This API needs MongoDB 4.4 or newer. If it is, change MONGODB_URI"
    # A failed connection: the message names hosts, and how they failed.
    return f"{name}: {error}"
