"""Bodies as they arrive at `python app.py`: with a length or in chunks, in pieces, after a 100."""

import http.client
import json
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.clients import assert_error
from support.connections import RawResponse, connect, head, received
from support.processes import CLEAN

JSON = "application/json"
KIB_64 = 64 * 1024
PLAIN = b'{"name": "milk"}'


def post_todo(server, user, body):
    """Add a todo. `body` is bytes, or an iterator, which is sent in chunks."""
    headers = {"Content-Type": JSON}
    return server.post("/todos", user.access, data=body, headers=headers)


def in_chunks(body, size=8 * 1024):
    """Yield the parts of a body. The client does not say how many there will be."""
    for start in range(0, len(body), size):
        yield body[start : start + size]


@pytest.fixture(params=["length", "chunked"])
def as_sent(request):
    """The function that makes bytes a body: with a length, or in chunks."""
    return in_chunks if request.param == "chunked" else bytes


# The size.


def test_body_of_up_to_64_kib_is_read(development_server, database, alice, as_sent):
    for size in (len(PLAIN), KIB_64):
        assert post_todo(development_server, alice, as_sent(PLAIN.ljust(size))).status_code == 201
    assert [todo["name"] for todo in database.todos.find()] == ["milk", "milk"]


@pytest.mark.parametrize("size", [KIB_64 + 1, 2_000_000], ids=["one byte over", "2 MB"])
def test_body_over_64_kib_gives_413(development_server, database, alice, as_sent, size):
    response = post_todo(development_server, alice, as_sent(PLAIN.ljust(size)))
    assert_error(response, 413, "request_too_large")
    assert not list(database.todos.find())


# Pieces.


def open_post(server, user, headers):
    """Send the headers of a POST to /todos, and return the connection, which takes its body."""
    headers = {"Authorization": f"Bearer {user.access}", "Content-Type": JSON} | headers
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.putrequest("POST", "/todos")
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    return connection


def as_chunk(body):
    """Return a part of a body as a client sends it with Transfer-Encoding: chunked."""
    return b"%x\r\n%s\r\n" % (len(body), body)


LENGTH = {"Content-Length": len(PLAIN)}
CHUNKED = {"Transfer-Encoding": "chunked"}
# Headers, what follows them immediately, and what follows after a pause.
PIECES = [
    (LENGTH, b"", PLAIN),
    (LENGTH, PLAIN[:5], PLAIN[5:]),
    (CHUNKED, b"", as_chunk(PLAIN) + as_chunk(b"")),
    (CHUNKED, as_chunk(PLAIN[:5]), as_chunk(PLAIN[5:]) + as_chunk(b"")),
]


def test_body_that_arrives_in_pieces_is_read(development_server, database, alice):
    def send_slowly(headers, first, second):
        connection = open_post(development_server, alice, headers)
        connection.send(first)
        # The pause is what is tested. All clients make it at the same time.
        time.sleep(1)
        connection.send(second)
        return connection.getresponse().status

    with ThreadPoolExecutor(len(PIECES)) as pool:
        statuses = list(pool.map(send_slowly, *zip(*PIECES, strict=True)))
    assert statuses == [201] * len(PIECES)
    assert [todo["name"] for todo in database.todos.find()] == ["milk"] * len(PIECES)


@pytest.mark.parametrize(("headers", "first", "_"), PIECES)
def test_body_that_ends_too_early_gives_400(development_server, database, alice, headers, first, _):
    connection = open_post(development_server, alice, headers)
    connection.send(first)
    connection.sock.shutdown(socket.SHUT_WR)
    response = connection.getresponse()
    error = json.loads(response.read())
    assert (response.status, error["error"]) == (400, "bad_request")
    assert error["message"].startswith("The body has not arrived completely")
    assert not list(database.todos.find())


@pytest.mark.parametrize("size", ["f" * 7, "f" * 15, "f" * 17, "f" * 40])
def test_chunk_that_says_that_it_is_endless_gives_an_error(development_server, size):
    """Werkzeug would go on to read from a connection that has ended."""
    request = head(b"POST /login HTTP/1.1", b"Transfer-Encoding: chunked") + size.encode()
    with connect(development_server) as connection:
        connection.sendall(request + b"\r\n{}")
        connection.shutdown(socket.SHUT_WR)
        response = RawResponse(received(connection))
    assert response.status_code in (400, 413)
    assert development_server.get("/todos").status_code == 401


# `Expect: 100-continue`.


@pytest.mark.parametrize("headers", [LENGTH, CHUNKED], ids=["length", "chunked"])
@pytest.mark.parametrize("expect", ["100-continue", "100-Continue"])
def test_expect_gets_one_100_before_the_body(development_server, alice, headers, expect):
    connection = open_post(development_server, alice, {**headers, "Expect": expect})
    connection.sock.settimeout(5)
    assert connection.sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.send(PLAIN if headers is LENGTH else as_chunk(PLAIN) + as_chunk(b""))
    # A second 100 would be taken for the response by some clients. This one would skip it.
    assert connection.sock.recv(12) == b"HTTP/1.1 201"
    connection.close()


@pytest.mark.skipif(not shutil.which("curl", path=CLEAN["PATH"]), reason="there is no curl here")
@pytest.mark.parametrize(("size", "status"), [(25, "201"), (2_000_000, "413")])
def test_curl_that_expects_100_continue_does_not_wait(
    development_server, alice, tmp_path, size, status
):
    file = tmp_path / "todo.json"
    file.write_bytes(PLAIN.ljust(size))
    # By default curl sends the body after a second, with or without a response.
    command = ["curl", "--expect100-timeout", "60", "-s", "-o", tmp_path / "response"]
    command += ["-w", "%{http_code}", "-X", "POST", "--data-binary", f"@{file}"]
    authorization = f"Authorization: Bearer {alice.access}"
    for header in ("Expect: 100-continue", f"Content-Type: {JSON}", authorization):
        command += ["-H", header]
    command += [f"{development_server.url}/todos"]
    begin = time.monotonic()
    done = subprocess.run(command, env=CLEAN, capture_output=True, text=True)
    assert time.monotonic() - begin < 30
    assert done.stdout == status
