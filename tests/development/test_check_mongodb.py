"""What `python app.py` says at its start about a MongoDB that the API cannot use: one line."""

import re
import shlex
import shutil
import signal
import socketserver
import subprocess
import sys
import threading

import pytest
from pymongo import MongoClient
from support.disguise import Disguise, version
from support.faults import WITH_FAIL_POINTS, FailPoint
from support.processes import CLEAN, ROOT, Mongod, free_port, is_open, wait_for

from resources.local_mongodb import find_mongod


@pytest.fixture
def start_mongod(tmp_path):
    """Start any number of MongoDBs with options of mongod; they end with the test."""
    mongods = []

    def start_mongod(*options):
        mongods.append(Mongod(tmp_path / f"mongod{len(mongods)}", options))
        return mongods[-1]

    yield start_mongod
    for mongod in mongods:
        mongod.kill()


@pytest.fixture
def warnings(start_app):
    """Start the app; once it serves, return what it has said about its MongoDB."""

    def warnings(uri):
        server = start_app(uri).wait()
        # The last line of the start.
        wait_for(lambda: "Debugger PIN" in server.log.read_text())
        return warnings_in(server)

    return warnings


def warnings_in(server):
    """Return what a server has said about its MongoDB so far."""
    log = server.log.read_text()
    assert "Traceback" not in log
    return re.findall(r"^ \* MongoDB: (.*)$", log, re.MULTILINE)


def assert_warning(warnings, *words):
    """Assert that there is one warning, with all these words."""
    [warning] = warnings
    assert [word for word in words if word not in warning] == []


def test_usable_mongodb_gives_no_warning_and_is_left_as_it_was(mongod, database, warnings):
    assert warnings(mongod.uri) == []
    for name in database.list_collection_names():
        assert database[name].count_documents({}) == 0


# A login.


@pytest.fixture
def closed_mongod(start_mongod):
    """A MongoDB that requires a login. The users `owner` and `reader` are stored in `admin`."""
    mongod = start_mongod("--auth")
    # A MongoDB without users allows this from its own machine.
    with MongoClient("127.0.0.1", mongod.port) as client:
        client.admin.command("createUser", "owner", pwd="secret", roles=["root"])
    with MongoClient("127.0.0.1", mongod.port, username="owner", password="secret") as client:
        client.admin.command(
            "createUser", "reader", pwd="secret", roles=[{"role": "read", "db": "test"}]
        )
    return mongod


def test_mongodb_that_requires_login_gives_one_warning(closed_mongod, warnings):
    assert_warning(warnings(closed_mongod.uri), "requires a login", "authSource=admin")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("user", "options", "words"),
    [
        ("owner:secret", "", ["authSource=admin"]),
        ("owner:wrong", "?authSource=admin", ["password", "wrong"]),
        ("reader:secret", "?authSource=admin", ["role readWrite"]),
        ("owner:secret", "?authSource=admin", None),
    ],
)
def test_wrong_user_gives_one_warning(closed_mongod, warnings, user, options, words):
    found = warnings(f"mongodb://{user}@127.0.0.1:{closed_mongod.port}/test{options}")
    if words:
        assert_warning(found, *words)
        assert "secret" not in found[0]
    else:
        assert found == []


# A replica set.


def initiate(mongod, others=()):
    """Make a member of the replica set `set` from a mongod; the others do not exist."""
    members = [{"_id": 0, "host": f"127.0.0.1:{mongod.port}"}]
    with MongoClient("127.0.0.1", mongod.port, directConnection=True) as client:
        client.admin.command("replSetInitiate", {"_id": "set", "members": members})
        wait_for(lambda: client.admin.command("hello")["isWritablePrimary"])
        if others:
            config = client.admin.command("replSetGetConfig")["config"]
            config["members"] += [
                {"_id": number, "host": host} for number, host in enumerate(others, 1)
            ]
            config["version"] += 1
            client.admin.command("replSetReconfig", config, force=True)
            wait_for(lambda: not client.admin.command("hello")["isWritablePrimary"], seconds=30)


@pytest.mark.parametrize(
    "options",
    [
        "",
        pytest.param("?replicaSet=set", marks=pytest.mark.slow),
        pytest.param("?directConnection=true", marks=pytest.mark.slow),
        pytest.param("?directConnection=true&replicaSet=set", marks=pytest.mark.slow),
    ],
)
def test_uninitiated_replica_set_gives_one_warning(start_mongod, warnings, options):
    mongod = start_mongod("--replSet", "set")
    assert_warning(warnings(mongod.uri + options), "rs.initiate()")
    initiate(mongod)
    assert warnings(mongod.uri + options) == []


@pytest.mark.parametrize("name", ["a.invalid", pytest.param("10.1.1.11", id="address")])
@pytest.mark.slow
def test_replica_set_with_unreachable_names_gives_one_warning(start_mongod, warnings, name):
    """In Docker, the members often have names that only other containers know."""
    mongod = start_mongod("--replSet", "set")
    initiate(mongod)
    names = {f"127.0.0.1:{mongod.port}".encode(): f"{name}:{mongod.port}".encode()}
    with Disguise(mongod.port, names) as docker:
        uri = f"mongodb://localhost:{docker.port}/test"
        assert_warning(warnings(uri), "cannot reach", "directConnection=true")
        assert warnings(f"{uri}?directConnection=true") == []


@pytest.mark.slow
def test_replica_set_without_primary_gives_one_warning(start_mongod, warnings):
    mongod = start_mongod("--replSet", "set")
    initiate(mongod, others=["127.0.0.1:1", "127.0.0.1:2"])
    for options in ("", "?directConnection=true"):
        assert_warning(warnings(mongod.uri + options), "no primary", "rs.status()")


@pytest.mark.slow
def test_wrong_name_of_replica_set_gives_one_warning(mongod, warnings):
    assert_warning(warnings(f"{mongod.uri}?replicaSet=other"), "replicaSet")


# TLS.


@pytest.fixture
def certificate(tmp_path):
    """A file with a new self-signed certificate for localhost, and its key."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl, which creates a certificate")
    key, file = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", file]
    subprocess.run(command, check=True, capture_output=True)
    file.write_text(key.read_text() + file.read_text())
    return file


@pytest.mark.slow
def test_mongodb_with_tls_gives_one_warning(certificate, start_app, warnings, tmp_path):
    port = free_port()
    command = [find_mongod(), "--port", str(port), "--dbpath", tmp_path, "--nounixsocket"]
    command += ["--tlsMode", "requireTLS", "--tlsCertificateKeyFile", certificate]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as mongod:
        wait_for(lambda: is_open(port))
        uri = f"mongodb://localhost:{port}/test"
        try:
            assert_warning(warnings(uri), "requires TLS", "add tls=true")
            assert_warning(warnings(f"{uri}?tls=true"), "self-signed", "tlsCAFile")
            by_address = f"mongodb://127.0.0.1:{port}/test?tls=true&tlsCAFile={certificate}"
            assert_warning(warnings(by_address), "127.0.0.1", "tlsCAFile")
            assert warnings(f"{uri}?tls=true&tlsCAFile={certificate}") == []
            assert warnings(f"{uri}?tls=true&tlsAllowInvalidCertificates=true") == []
        finally:
            mongod.terminate()


@pytest.mark.slow
def test_tls_of_client_alone_gives_one_warning(mongod, warnings):
    assert_warning(warnings(f"{mongod.uri}?tls=true"), "leave out tls=true")


# Another MongoDB, another product, another program.


@pytest.mark.parametrize("number", [6, 8, 0])
@pytest.mark.slow
def test_old_mongodb_gives_one_warning(mongod, warnings, number):
    with Disguise(mongod.port, {version(17): version(number)}) as old:
        found = warnings(f"mongodb://127.0.0.1:{old.port}/test")
    assert_warning(found, f"wire version {number},", "MongoDB 4.4 or newer")


def test_old_mongodb_on_27017_is_used_with_one_warning(no_mongodb, mongod, start_app):
    with Disguise(mongod.port, {version(17): version(6)}, ("127.0.0.1", 27017)):
        server = start_app().wait()
        assert_warning(warnings_in(server), "MongoDB 4.4 or newer")
        assert "Started a MongoDB" not in server.log.read_text()


OLD_MONGOD = """\
import sys, threading
sys.path.insert(0, {folder!r})
from support.disguise import Disguise, version
Disguise({port}, {{version(17): version(6)}}, ("127.0.0.1", 27017))
threading.Event().wait()
"""


@pytest.mark.slow
def test_old_mongod_is_started_with_one_warning(no_mongodb, mongod, start_app, tmp_path):
    program = tmp_path / "bin" / "mongod"
    program.parent.mkdir()
    code = OLD_MONGOD.format(folder=str(ROOT / "tests"), port=mongod.port)
    program.write_text(f"#!/bin/sh\nexec {shlex.join([sys.executable, '-c', code])}\n")
    program.chmod(0o755)
    server = start_app(PATH=f"{program.parent}:{CLEAN['PATH']}").wait()
    assert_warning(warnings_in(server), "MongoDB 4.4 or newer")
    assert "Started a MongoDB" in server.log.read_text()


def test_database_with_other_case_gives_one_warning(mongod, warnings):
    with MongoClient(mongod.uri) as client:
        client.othercase.users.insert_one({})
        found = warnings(f"mongodb://127.0.0.1:{mongod.port}/OtherCase")
        client.drop_database("othercase")
    assert_warning(found, "differs only in upper and lower case", "change MONGODB_URI")


@pytest.mark.slow
@pytest.mark.parametrize("code", [59, 115, 238, 9])
@pytest.mark.parametrize("command", ["find", "findAndModify"])
def test_missing_command_gives_one_warning(start_mongod, warnings, command, code):
    """As DocumentDB, Cosmos DB and FerretDB refuse what they do not have."""
    mongod = start_mongod(*WITH_FAIL_POINTS)
    with MongoClient(mongod.uri) as client:
        FailPoint(client).set([command], errorCode=code, mode="alwaysOn")
    assert_warning(warnings(mongod.uri), "MongoDB 4.4 or newer")


@pytest.mark.slow
def test_missing_mongodb_gives_one_warning(warnings):
    uri = f"mongodb://127.0.0.1:{free_port()}/test"
    assert_warning(warnings(uri), "no server answers", "refused", "Start a MongoDB")


class HttpHandler(socketserver.BaseRequestHandler):
    """Answers anything as a web server does that does not understand it."""

    def handle(self):
        self.request.recv(1024)
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.slow
def test_another_program_gives_one_warning(warnings):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), HttpHandler) as other:
        threading.Thread(target=other.serve_forever).start()
        try:
            uri = f"mongodb://127.0.0.1:{other.server_address[1]}/test"
            assert_warning(warnings(uri), "no server answers", "not MongoDB")
        finally:
            other.shutdown()


@pytest.mark.slow
def test_frozen_mongodb_gives_one_warning(own_mongod, warnings):
    own_mongod.process.send_signal(signal.SIGSTOP)
    try:
        assert_warning(warnings(own_mongod.uri), "no server answers")
    finally:
        own_mongod.process.send_signal(signal.SIGCONT)


@pytest.mark.slow
def test_reload_does_not_repeat_the_warning(closed_mongod, start_app, project):
    server = start_app(closed_mongod.uri).wait()
    (project / "blacklist.py").touch()
    wait_for(lambda: server.log.read_text().count("Debugger is active!") == 2)
    wait_for(server.answers)
    assert_warning(warnings_in(server), "requires a login")
