"""Slow and odd clients: a slow one is served, and none delays the others for long."""

import contextlib
import math
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import jwt
import pytest
from support.clients import assert_error, report, timed
from support.processes import ROOT, SECRET, wait_for, with_stats, workers

SETTINGS = (ROOT / "uwsgi.ini").read_text()


def setting(name):
    """Return the value of a setting in uwsgi.ini, a number."""
    return int(re.search(rf"^{name} = (\d+)$", SETTINGS, re.MULTILINE)[1])


# Of all workers together.
THREADS = setting("processes") * setting("threads")


def connect(server):
    """Open a connection to the server, for bytes that no HTTP client would send."""
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def response_to(server, *parts, pause=0):
    """Send the parts of a request with a pause before each; return the response until its end."""
    with connect(server) as connection:
        for part in parts:
            time.sleep(pause)
            connection.sendall(part)
        return received(connection)


def received(connection):
    """Return all bytes that come until the server closes the connection."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            data += part
    return data


def assert_waits_less_than(seconds, server):
    """Assert that a client that behaves gets its response within so many seconds."""
    waited, response = timed(lambda: server.get("/todos"))
    assert_error(response, 401, "authorization_required")
    report(waited=round(waited, 2))
    assert waited < seconds


def busy_threads(server):
    """Return how many threads of a server with stats serve a request at the moment."""
    return sum(core["in_request"] for worker in workers(server) for core in worker["cores"])


LOGIN = (
    b"POST /login HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
)
HALF_BODY = LOGIN + b"Content-Length: 99\r\n\r\n{"
HALF_CHUNK = LOGIN + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"


# Slow, but complete.


@pytest.mark.slow
@pytest.mark.parametrize("pause", [1.3, 2.9])
def test_body_with_pauses_is_read(api, database, alice, pause):
    body = b'{"name": "milk", "done": true}'
    head = b"POST /todos HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += (
        b"Content-Type: application/json\r\nAuthorization: Bearer %s\r\n" % alice.access.encode()
    )
    with_length = head + b"Content-Length: %d\r\n\r\n" % len(body)
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    requests = [
        # After the headers, within the body, and within a chunk, its length or its end.
        (with_length, body),
        (with_length + body[:9], body[9:]),
        (chunked, chunks),
        (chunked + chunks[:1], chunks[1:]),
        (chunked + chunks[:9], chunks[9:]),
        (chunked + chunks[:-5], chunks[-5:]),
    ]
    with ThreadPoolExecutor() as pool:
        sent = [pool.submit(response_to, api, *parts, pause=pause) for parts in requests]
    for response in sent:
        assert response.result().startswith(b"HTTP/1.1 201"), response.result()
    stored = [(todo["name"], todo["done"]) for todo in database.todos.find()]
    assert stored == [("milk", True)] * len(requests)


@pytest.mark.slow
@pytest.mark.parametrize("request_", [HALF_BODY, HALF_CHUNK], ids=["length", "chunked"])
def test_body_that_stops_arriving_is_400(api, request_):
    seconds, response = timed(lambda: response_to(api, request_))
    report(seconds=round(seconds, 2))
    assert response.startswith(b"HTTP/1.1 400"), response
    assert b"The body has not arrived completely. Send it again." in response
    assert 3 < seconds < 5


# Half-open requests.


@pytest.mark.parametrize(
    "half", [b"", b"GET /todos HT", b"GET /todos HTTP/1.1\r\nHost: x\r\nAuthoriz"], ids=repr
)
def test_100_half_open_headers_delay_no_other_client(api, half):
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(connect(api)).sendall(half)
        assert_waits_less_than(1, api)


@pytest.mark.slow
def test_60_half_open_bodies_delay_others_for_limited_time(mongod, start):
    server = with_stats(start, mongod.uri)
    # Each half-open body holds a thread for as long as a client may pause.
    longest = math.ceil(60 / THREADS) * setting("socket-timeout")
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connect(server)) for _ in range(60)]
        for number, connection in enumerate(connections):
            connection.sendall([HALF_BODY, HALF_CHUNK][number % 2])
        wait_for(lambda: busy_threads(server) == THREADS)
        assert_waits_less_than(longest + 5, server)
        for connection in connections:
            assert received(connection).startswith(b"HTTP/1.1 400")
    assert_waits_less_than(1, server)


@pytest.mark.slow
def test_server_goes_on_after_clients_that_drip(mongod, start):
    """A byte now and then holds a thread for as long as the client likes. That is reported here."""
    server = with_stats(start, mongod.uri)
    with contextlib.ExitStack() as stack, ThreadPoolExecutor() as pool:
        connections = [stack.enter_context(connect(server)) for _ in range(THREADS)]
        for connection in connections:
            connection.sendall(HALF_BODY)
        wait_for(lambda: busy_threads(server) == THREADS)
        reader = pool.submit(timed, lambda: server.get("/todos"))
        for _ in range(10):
            time.sleep(0.6)
            for connection in connections:
                connection.sendall(b" ")
        waits_for_the_end = not reader.done()
        stack.close()
        waited, response = reader.result()
    assert_error(response, 401, "authorization_required")
    report(waited=round(waited, 2), waits_for_the_end=waits_for_the_end)
    assert_waits_less_than(1, server)


# What is not HTTP, or too long.


def test_token_of_8_kb_reaches_the_app(api):
    long = jwt.encode({"x": "x" * 8000}, SECRET, "HS256")
    assert_error(api.get("/todos", long), 401, "invalid_token")


def test_connection_of_headers_over_32_kib_is_closed(api):
    head = b"GET /todos HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: %s\r\n\r\n"
    assert response_to(api, head % (b"x" * 32000)).startswith(b"HTTP/1.1 401")
    for size in (33_000, 66_000, 1_000_000):
        # The server may close before all of it is sent.
        with contextlib.suppress(ConnectionError):
            assert response_to(api, head % (b"x" * size)) == b""
    assert_waits_less_than(1, api)


@pytest.mark.parametrize(
    "line",
    [b"GET\r\n\r\n", b"GET /todos\r\n\r\n", b"\r\n\r\n", b" \r\n\r\n", b"\x16\x03\x01\x02\r\n\r\n"],
    ids=repr,
)
def test_connection_of_what_is_not_http_is_closed(mongod, start, line):
    server = start(mongod.uri)
    response = response_to(server, line)
    # Nothing, or an error of the client's.
    assert response == b"" or response.startswith(b"HTTP/1.1 4"), response
    assert_waits_less_than(1, server)
    log = server.log.read_text()
    assert "Traceback" not in log and " => 5" not in log


# Connections.


def test_connection_is_closed_after_response_that_says_so(api):
    """Heroku's router would otherwise send the next request on a connection that is gone."""
    response = response_to(api, b"GET /todos HTTP/1.1\r\nHost: x\r\n\r\n")
    assert response.startswith(b"HTTP/1.1 401")
    assert response.count(b"\r\nConnection: close\r\n") == 1
    assert response.endswith(b"}\n")
