"""What `python app.py` says at its start about a MongoDB that the API cannot use: one line."""

import contextlib
import os
import re
import shutil
import signal
import socketserver
import subprocess
import threading

import psutil
import pytest
from pymongo import MongoClient
from support.faults import WITH_FAIL_POINTS, FailPoint
from support.processes import Mongod, free_port, is_open, wait_for
from support.proxy import Proxy, version

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
    """Start an app for each URI; return what each has said about its MongoDB until it serves."""

    def warnings(*uris):
        # Side by side, because most of them wait until their deadline.
        servers = [start_app(uri) for uri in uris]
        for server in servers:
            server.wait()
            # The last line of the start.
            wait_for(lambda s=server: "Debugger PIN" in s.log.read_text())
        return [warnings_in(server) for server in servers]

    return warnings


def warnings_in(server):
    """Return what a server has said about its MongoDB so far."""
    log = server.log.read_text()
    assert "Traceback" not in log
    return re.findall(r"^ \* MongoDB: (.*)$", log, re.MULTILINE)


def assert_warning(found, *words):
    """Assert that an app has said one line, with all these words."""
    [warning] = found
    assert [word for word in words if word not in warning] == []


def test_usable_mongodb_gives_no_warning_and_is_left_as_it_was(mongod, database, warnings):
    assert warnings(mongod.uri) == [[]]
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
    [found] = warnings(closed_mongod.uri)
    assert_warning(found, "requires a login", "authSource=admin")


@pytest.mark.slow
def test_wrong_user_gives_one_warning(closed_mongod, warnings):
    server = f"127.0.0.1:{closed_mongod.port}/test"
    no_source, wrong_password, no_right, right = warnings(
        f"mongodb://owner:secret@{server}",
        f"mongodb://owner:wrong@{server}?authSource=admin",
        f"mongodb://reader:secret@{server}?authSource=admin",
        f"mongodb://owner:secret@{server}?authSource=admin",
    )
    assert_warning(no_source, "authSource=admin")
    assert_warning(wrong_password, "password", "wrong")
    assert_warning(no_right, "role readWrite")
    assert right == []
    for [warning] in (no_source, wrong_password, no_right):
        assert "secret" not in warning


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


@pytest.mark.slow
def test_uninitiated_replica_set_gives_one_warning(start_mongod, warnings):
    mongod = start_mongod("--replSet", "set")
    options = ["", "?replicaSet=set", "?directConnection=true"]
    uris = [mongod.uri + option for option in [*options, "?directConnection=true&replicaSet=set"]]
    for found in warnings(*uris):
        assert_warning(found, "rs.initiate()")
    initiate(mongod)
    assert warnings(*uris) == [[]] * 4


@pytest.mark.slow
def test_replica_set_with_unreachable_names_gives_one_warning(start_mongod, warnings):
    """In Docker, the members often have names that only other containers know."""
    mongod = start_mongod("--replSet", "set")
    initiate(mongod)
    own_name = f"127.0.0.1:{mongod.port}".encode()
    with contextlib.ExitStack() as proxies:
        uris = []
        for name in ("a.invalid", "10.1.1.11"):
            names = {own_name: f"{name}:{mongod.port}".encode()}
            docker = proxies.enter_context(contextlib.closing(Proxy(mongod, names)))
            uris.append(f"mongodb://localhost:{docker.port}/test")
        direct = [f"{uri}?directConnection=true" for uri in uris]
        unreachable, address, *reached = warnings(*uris, *direct)
    assert_warning(unreachable, "cannot reach", "directConnection=true")
    assert_warning(address, "cannot reach", "directConnection=true")
    assert reached == [[], []]


@pytest.mark.slow
def test_replica_set_without_primary_gives_one_warning(start_mongod, warnings):
    mongod = start_mongod("--replSet", "set")
    initiate(mongod, others=["127.0.0.1:1", "127.0.0.1:2"])
    for found in warnings(mongod.uri, f"{mongod.uri}?directConnection=true"):
        assert_warning(found, "no primary", "rs.status()")


@pytest.mark.slow
def test_wrong_name_of_replica_set_gives_one_warning(mongod, warnings):
    [found] = warnings(f"{mongod.uri}?replicaSet=other")
    assert_warning(found, "replicaSet")


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
            without, unknown, by_address, *right = warnings(
                uri,
                f"{uri}?tls=true",
                f"mongodb://127.0.0.1:{port}/test?tls=true&tlsCAFile={certificate}",
                f"{uri}?tls=true&tlsCAFile={certificate}",
                f"{uri}?tls=true&tlsAllowInvalidCertificates=true",
            )
        finally:
            mongod.terminate()
    assert_warning(without, "requires TLS", "add tls=true")
    assert_warning(unknown, "self-signed", "tlsCAFile")
    assert_warning(by_address, "127.0.0.1", "tlsCAFile")
    assert right == [[], []]


@pytest.mark.slow
def test_tls_of_client_alone_gives_one_warning(mongod, warnings):
    [found] = warnings(f"{mongod.uri}?tls=true")
    assert_warning(found, "leave out tls=true")


# Another MongoDB, another product, another program.


@pytest.mark.slow
def test_old_mongodb_gives_one_warning(mongod, warnings):
    with contextlib.closing(Proxy(mongod, {version(17): version(8)})) as old:
        [found] = warnings(old.uri)
    assert_warning(found, "wire version 8,", "MongoDB 4.4 or newer")


def test_database_with_other_case_gives_one_warning(mongod, warnings):
    with MongoClient(mongod.uri) as client:
        client.othercase.users.insert_one({})
        [found] = warnings(f"mongodb://127.0.0.1:{mongod.port}/OtherCase")
        client.drop_database("othercase")
    assert_warning(found, "differs only in upper and lower case", "change MONGODB_URI")


@pytest.mark.slow
def test_missing_command_gives_one_warning(start_mongod, warnings):
    """As DocumentDB, Cosmos DB and FerretDB refuse what they do not have."""
    refused = [("find", 59), ("find", 115), ("findAndModify", 238), ("findAndModify", 9)]
    uris = []
    for command, code in refused:
        mongod = start_mongod(*WITH_FAIL_POINTS)
        with MongoClient(mongod.uri) as client:
            FailPoint(client).set([command], errorCode=code)
        uris.append(mongod.uri)
    for found in warnings(*uris):
        assert_warning(found, "MongoDB 4.4 or newer")


@pytest.mark.slow
def test_missing_mongodb_gives_one_warning(warnings):
    uri = f"mongodb://127.0.0.1:{free_port()}/test"
    for found in warnings(uri, f"{uri}?replicaSet=set"):
        assert_warning(found, "no server answers", "refused", "Start a MongoDB")


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
            [found] = warnings(uri)
        finally:
            other.shutdown()
    assert_warning(found, "no server answers", "not MongoDB")


@pytest.mark.slow
def test_frozen_mongodb_gives_one_warning(own_mongod, warnings):
    own_mongod.process.send_signal(signal.SIGSTOP)
    try:
        [found] = warnings(own_mongod.uri)
    finally:
        own_mongod.process.send_signal(signal.SIGCONT)
    assert_warning(found, "no server answers")


@pytest.mark.skipif(os.name == "nt", reason="signals of Linux and macOS")
def test_process_that_waits_has_no_other_thread_that_could_take_a_signal(mongod, start_app):
    server = start_app(mongod.uri).wait()
    wait_for(lambda: psutil.Process(server.process.pid).num_threads() == 1)


@pytest.mark.slow
def test_reload_does_not_repeat_the_warning(closed_mongod, start_app, copy):
    server = start_app(closed_mongod.uri).wait()
    (copy / "blacklist.py").touch()
    wait_for(lambda: server.log.read_text().count("Debugger is active!") == 2)
    wait_for(server.answers)
    assert_warning(warnings_in(server), "requires a login")
