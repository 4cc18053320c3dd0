"""Options of MONGODB_URI never change a response."""

import signal
from collections import Counter

import pytest
from pymongo import MongoClient
from pymongo.common import URI_OPTIONS_VALIDATOR_MAP
from support.actions import log_in
from support.clients import PASSWORD, Control, InsertedUser, User, assert_error, timed
from support.documents import normalised
from support.faults import READS, WRITES
from support.flight import Flight
from support.processes import Server, procfile_command

pytestmark = pytest.mark.slow

# Together, HARMLESS and OPTIONS have each option that PyMongo accepts in a URI, with a value that
# differs from the default and that the MongoDB of the tests can serve. None of the harmless ones
# shows in a response of this MongoDB, whatever the API does, so one server is enough for all.
HARMLESS = "&".join(
    [
        "appName=x",
        "compressors=zlib",
        "zlibCompressionLevel=9",
        "connect=true",
        "connectTimeoutMS=1000",
        "directConnection=true",
        "fsync=true",
        "heartbeatFrequencyMS=1000",
        "journal=false",
        "localThresholdMS=1",
        "maxConnecting=1",
        "maxIdleTimeMS=1",
        "maxPoolSize=1",
        "minPoolSize=3",
        # test_replica_set.py has a MongoDB with a secondary.
        "readPreference=secondary",
        "readPreferenceTags=dc:ny",
        "maxStalenessSeconds=120",
        "retryReads=false",
        "retryWrites=false",
        "serverMonitoringMode=poll",
        # With a slow MongoDB, these would end an operation too soon: see TIMES.
        "serverSelectionTimeoutMS=1",
        "socketTimeoutMS=1",
        "waitQueueTimeoutMS=1",
        "wTimeoutMS=1",
        "unicode_decode_error_handler=ignore",
        "uuidRepresentation=javaLegacy",
        "tls=false",
        "ssl=false",
        "authSource=admin",
    ]
)
# Each of these alone would change a response if the API did not set its own.
OPTIONS = [
    "datetime_conversion=DATETIME_MS",
    "readConcernLevel=linearizable",
    "readConcernLevel=snapshot",
    "timeoutMS=1",
    "tz_aware=true",
    "w=0",
    "w=2",
]
# They say where MongoDB is, how to log in to it, and how to encrypt the connection. A wrong value
# means that no connection is possible.
REFUSED_OR_NO_CONNECTION = {
    "authmechanism",
    "authmechanismproperties",
    "loadbalanced",
    "replicaset",
    "srvmaxhosts",
    "srvservicename",
    "srvallowedhostssuffix",
    "tlsallowinvalidcertificates",
    "tlsallowinvalidhostnames",
    "tlscafile",
    "tlscertificatekeyfile",
    "tlscertificatekeyfilepassword",
    "tlscrlfile",
    "tlsdisableocspendpointcheck",
    "tlsinsecure",
}


def main_flow(server):
    """Send the requests of the main flow, as a new user; return (status, body) of each."""
    alice = User(server, "alice")
    responses = [server.post("/todos", alice.access, json={"name": str(n)}) for n in range(3)]
    path = "/todos?limit=1"
    while path:
        responses.append(server.get(path, alice.access))
        path = responses[-1].json()["next"]
    todo = f"/todos/{responses[0].json()['id']}"
    responses.append(server.put(todo, alice.access, json={"done": True}))
    responses.append(server.get("/todos?done=true", alice.access))
    responses.append(server.delete(todo, alice.access))
    responses.append(server.get(todo, alice.access))
    responses.append(server.post("/refresh", alice.refresh))
    change = {"current_password": PASSWORD, "password": "another battery staple"}
    responses.append(server.put("/user/alice", alice.access, json=change))
    new = responses[-1].json()
    responses.append(server.get("/todos", alice.access))
    responses.append(server.post("/logout", new["refresh_token"]))
    responses.append(server.get("/todos", new["access_token"]))
    responses.append(server.post("/register", json={"username": "alice", "password": PASSWORD}))
    return [(response.status_code, normalised(response.text)) for response in responses]


@pytest.fixture(scope="module")
def expected(mongod, tmp_path_factory):
    """The responses of a server whose MONGODB_URI has no options."""
    uri = f"mongodb://127.0.0.1:{mongod.port}/without_options"
    server = Server(procfile_command(), tmp_path_factory.mktemp("expected") / "log", uri)
    yield main_flow(server.wait())
    server.kill()


@pytest.mark.parametrize("option", [pytest.param(HARMLESS, id="harmless"), *OPTIONS])
def test_option_of_uri_changes_no_response(mongod, database, start, expected, option):
    server = start(f"{mongod.uri}?{option}", WEB_CONCURRENCY="1")
    assert main_flow(server) == expected


# Those that would end an operation too soon if the API did not set its own deadline. All in one
# URI, because each of them would show in the responses.
TIMES = "timeoutMS=50&socketTimeoutMS=50&serverSelectionTimeoutMS=1&waitQueueTimeoutMS=1"
TIMES += "&maxPoolSize=1&maxConnecting=1&wTimeoutMS=1&retryReads=false"


def test_options_of_uri_end_no_slow_operation(failing_mongod, fail_point, start):
    server = start(f"{failing_mongod.uri}?{TIMES}", WEB_CONCURRENCY="1")
    with MongoClient(failing_mongod.uri) as client:
        alice = InsertedUser(server, client.get_default_database(), "alice")
    fail_point.set(READS + WRITES, blockConnection=True, blockTimeMS=100)
    posts = [("POST", "/todos", alice.access, {"name": "x"}) for _ in range(20)]
    assert Counter(status for _, status, _ in Flight(server, posts).land()) == {201: 20}
    assert log_in(server, "alice", PASSWORD).status_code == 200


@pytest.mark.parametrize("option", ["timeoutMS=600000", "serverSelectionTimeoutMS=600000"])
def test_options_of_uri_prolong_no_request(own_mongod, start, option):
    server = start(f"{own_mongod.uri}?{option}", WEB_CONCURRENCY="1")
    own_mongod.process.send_signal(signal.SIGSTOP)
    with Control(server) as control:
        seconds, response = timed(lambda: log_in(server, "alice", PASSWORD))
    assert_error(response, 503, "database_unavailable")
    control.assert_in_time(seconds)


def test_every_option_of_pymongo_is_tested():
    tested = {
        part.split("=")[0].lower() for option in [HARMLESS, *OPTIONS] for part in option.split("&")
    }
    untested = set(URI_OPTIONS_VALIDATOR_MAP) - tested - REFUSED_OR_NO_CONNECTION
    # PyMongo takes these as Python objects only, or for its own tests.
    assert untested == {
        "driver",
        "server_api",
        "enableoverloadretargeting",
        "maxadaptiveretries",
        "waitqueuemultiple",
    }
