"""What `python app.py` says at its start if the API cannot use its MongoDB: one line.

A developer then need not wait for the first request, whose error says only that the database is
unavailable, because a client must not learn more. The line says what to do.
"""

import pymongo
from pymongo.errors import (
    ConfigurationError,
    ExecutionTimeout,
    OperationFailure,
    PyMongoError,
)
from pymongo.uri_parser import parse_uri

import db
from resources import local_mongodb, settings

URI = settings.MONGODB_URI or local_mongodb.URI

# The `_id` of the counter that the check writes and deletes. No username has a space.
COUNTER = "python app.py"

ANOTHER_PRODUCT = (
    "MongoDB refuses a command that this API needs. Use MongoDB 4.4 or newer. DocumentDB, Cosmos DB"
    " and FerretDB do not have all of its commands"
)
# The codes with which such products refuse a command: unknown, or not supported.
UNKNOWN_COMMAND = {59, 115, 238, 301, 303}

# What to do, for a word of the error with which a connection fails. The first one counts.
CURES = {
    "a set named 'None'": (
        "Run rs.initiate() in mongosh if this is a new member of a replica set. Otherwise leave out"
        " replicaSet in MONGODB_URI"
    ),
    "CERTIFICATE_VERIFY_FAILED": (
        "This machine does not trust the server's certificate. Add tlsCAFile=FILE to MONGODB_URI,"
        " the file with the certificate of its authority. For a self-signed one on your own"
        " machine, tlsAllowInvalidCertificates=true will do"
    ),
    "CERTIFICATE_REQUIRED": (
        "The server requires a client certificate. Add tlsCertificateKeyFile=FILE to MONGODB_URI"
    ),
    "ALERT_INTERNAL_ERROR": "At Atlas, allow the address of this machine under Network Access",
    "SSL": "If this MongoDB does not use TLS, leave out tls=true in MONGODB_URI",
    "closed": "If this MongoDB requires TLS, add tls=true to MONGODB_URI",
    "reset": "If this MongoDB requires TLS, add tls=true to MONGODB_URI",
    "Got response id": "The program there is not MongoDB. Correct the port in MONGODB_URI",
    # Any other text.
    "": "Start a MongoDB there, or correct the host and the port in MONGODB_URI",
}


def check_mongodb(seconds):
    """Print one line if the API cannot read and write within so many seconds; close the client."""
    try:
        with pymongo.timeout(seconds):
            read_and_write()
    except PyMongoError as error:
        print(f" * MongoDB: {explain(error)}.", flush=True)
    # This process waits from here on for the one that serves. While the client has threads, Linux
    # may hand a SIGTERM to one of them, and Python's main thread would go on waiting.
    db.mongo.cx.close()


def read_and_write():
    """Read and write as the API does, and leave nothing but its indexes."""
    db.users().find_one({}, projection=["_id"])
    counters = db.rate_limits()
    counters.find_one_and_update({"_id": COUNTER}, [{"$set": {"expires_at": "$$NOW"}}], upsert=True)
    counters.delete_one({"_id": COUNTER})
    db.create_indexes()


def explain(error):
    """Return what is wrong with MongoDB, and what to do, in one line."""
    topology = db.mongo.cx.topology_description
    servers = topology.server_descriptions().values()
    if any(server.server_type_name == "RSGhost" for server in servers):
        return "this member of a replica set is not initiated. Run rs.initiate() in mongosh"
    # The end of the time is no refusal, although PyMongo's classes say so.
    if isinstance(error, OperationFailure) and not isinstance(error, ExecutionTimeout):
        return explain_refusal(error)
    if isinstance(error, ConfigurationError) or any(server.is_writable for server in servers):
        return db.describe(error)
    if any(server.is_server_type_known for server in servers):
        return with_reasons("this machine reaches no primary. See rs.status() in mongosh", servers)
    if topology.topology_type_name.startswith("ReplicaSet"):
        return explain_replica_set(servers)
    return explain_connection(servers)


def explain_refusal(error):
    """Return why MongoDB refuses a command, and what to do."""
    if error.code == 13 and parse_uri(URI)["username"] is None:
        return (
            "it requires a login. Set MONGODB_URI to"
            " mongodb://USER:PASSWORD@HOST/todolistapp?authSource=admin, with the database in"
            " authSource that the user was created in"
        )
    # These commands are right for MongoDB. Where they are a mistake, it is another product.
    if error.code in UNKNOWN_COMMAND | db.MISTAKES:
        return ANOTHER_PRODUCT
    return db.describe(error)


def explain_replica_set(servers):
    """Return why this machine reaches no member of a replica set, and what to do."""
    members = {server.address for server in servers}
    if not members:
        return (
            "the server is not in the replica set that replicaSet in MONGODB_URI names. Correct the"
            " name, or leave replicaSet out"
        )
    if not members.isdisjoint(parse_uri(URI)["nodelist"]):
        return explain_connection(servers)
    return with_reasons(
        "this machine cannot reach the members by the names that the replica set has for them. Add"
        " directConnection=true to MONGODB_URI, as in"
        " mongodb://localhost:27017/?directConnection=true",
        servers,
    )


def explain_connection(servers):
    """Return why this machine reaches no server, and what to do."""
    text = with_reasons("no server answers in time", servers)
    return f"{text}. {next(cure for word, cure in CURES.items() if word in text)}"


def with_reasons(text, servers):
    """Return `text` with the reasons why the connections to the servers fail."""
    # PyMongo's timeouts, in parentheses, say nothing here.
    reasons = [str(server.error).partition(" (configured")[0] for server in servers if server.error]
    return f"{text} ({'; '.join(reasons)})" if reasons else text
