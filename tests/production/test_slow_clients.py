"""Slow clients: each is served for as long as it may take, and no longer."""

import contextlib
import json
import select
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import jwt
import pytest
from support.clients import InsertedUser, assert_error, report, timed
from support.connections import (
    HALF_BODY,
    HALF_CHUNK,
    RawResponse,
    chunks,
    connect,
    head,
    received,
    send,
)
from support.processes import SECRET, wait_for


def add_longest_todos(user):
    """Add the todos of the largest page, which has 4 MB."""
    todo = {"name": "x" * 200, "description": "\U0001f600" * 10_000}
    # As UTF-8: as escapes, such as \\ud83d\\ude00, it would be too large.
    body = json.dumps(todo, ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json"}
    for _ in range(100):
        response = user.api.post("/todos", user.access, data=body, headers=headers)
        assert response.status_code == 201


# Slow, but complete.


@pytest.mark.slow
def test_body_that_takes_8_seconds_is_read(api, database, alice):
    body = b'{"name": "milk", "done": true}'
    start = ("POST /todos HTTP/1.1", "Content-Type: application/json")
    start += (f"Authorization: Bearer {alice.access}",)
    with_length = head(*start, f"Content-Length: {len(body)}")
    chunked = head(*start, "Transfer-Encoding: chunked")
    one = chunks(body)
    requests = [
        # Pauses behind the headers and within the body, a chunk, its length or its end.
        (with_length, body[:9], body[9:]),
        (with_length + body[:1], body[1:-1], body[-1:]),
        (chunked, one[:9], one[9:]),
        (chunked + one[:1], one[1:2], one[2:]),
        (chunked + one[:-6], one[-6:-3], one[-3:]),
        (chunked + one[:3], one[3:-5], one[-5:]),
    ]
    # The pause before the first part is none of the body.
    with ThreadPoolExecutor() as pool:
        sent = [pool.submit(send, api, *parts, pause=4) for parts in requests]
    for response in sent:
        assert response.result().status_code == 201, response.result().data
    stored = [(todo["name"], todo["done"]) for todo in database.todos.find()]
    assert stored == [("milk", True)] * len(requests)


@pytest.mark.slow
def test_reader_that_pauses_gets_its_whole_page(api, alice):
    add_longest_todos(alice)
    with socket.socket() as connection:
        # Before the connection, so that the client's system keeps little of the response.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", api.port))
        token = f"Authorization: Bearer {alice.access}"
        connection.sendall(head("GET /todos?limit=100 HTTP/1.1", token))
        start = connection.recv(1000)
        # These pauses are the case that the test is about.
        time.sleep(6)
        start += connection.recv(100_000)
        time.sleep(6)
        response = RawResponse(start + received(connection))
    assert response.status_code == 200
    assert len(response.json()["todos"]) == 100
    assert len(response.text.encode()) == int(response.headers["Content-Length"]) > 4_000_000


# Too slow.


def drip_until_response(server, start):
    """Send a byte a second, until a response comes; return the response."""
    with connect(server) as connection:
        connection.sendall(start)
        while not select.select([connection], [], [], 1)[0]:
            connection.sendall(b" ")
        return RawResponse(received(connection))


@pytest.mark.slow
def test_body_that_drips_is_400_after_10_seconds(mongod, start):
    server = start(mongod.uri)
    processes = {process.pid for process in server.processes()}
    with ThreadPoolExecutor(80) as pool:
        # Some drip, and some stop while the others go on.
        sent = [
            pool.submit(timed, lambda h=half, s=slowly: s(server, h))
            for half in [HALF_BODY, HALF_CHUNK] * 20
            for slowly in (drip_until_response, send)
        ]
        results = [result.result() for result in sent]
    for seconds, response in results:
        assert_error(response, 400, "bad_request")
        assert "has not arrived completely" in response.json()["message"]
        assert 9.9 < seconds < 20
    report(longest=round(max(seconds for seconds, _ in results), 2))
    # No worker has ended because of them, not even afterwards.
    for _ in range(20):
        assert_error(server.get("/todos"), 401, "authorization_required")
    assert {process.pid for process in server.processes()} == processes
    assert "Traceback" not in server.log.read_text()


@pytest.mark.slow
def test_readers_that_never_read_let_go_of_large_pages(mongod, database, start):
    server = start(mongod.uri, WEB_CONCURRENCY="1")
    alice = InsertedUser(server, database, "alice")
    add_longest_todos(alice)
    request = head("GET /todos?limit=100 HTTP/1.1", f"Authorization: Bearer {alice.access}")

    def page():
        return server.get("/todos?limit=100", alice.access)

    with contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(connect(server)).sendall(request)
        # So many are sent that the process keeps no more of them in memory, and says so.
        wait_for(lambda: page().status_code == 503, seconds=30)
        assert_error(page(), 503, "server_busy")
        assert server.get("/todos?limit=1", alice.access).status_code == 200
        # A client may pause for 30 seconds while it reads.
        wait_for(lambda: page().status_code == 200, seconds=60)


def test_token_of_8_kb_reaches_the_app(api):
    long = jwt.encode({"x": "x" * 8000}, SECRET, "HS256")
    assert_error(api.get("/todos", long), 401, "invalid_token")
