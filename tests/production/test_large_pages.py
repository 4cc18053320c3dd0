"""A page of 4 MB arrives whole even if its reader pauses, and is dropped if it is not read."""

import contextlib
import json
import socket
import time

import pytest
from support.clients import InsertedUser, assert_error
from support.connections import RawResponse, connect, head, received
from support.processes import wait_for


def add_longest_todos(user):
    """Add the todos of a page of 4 MB."""
    todo = {"name": "x" * 200, "description": "\U0001f600" * 10_000}
    # As UTF-8: as escapes, such as \\ud83d\\ude00, it would be too large.
    body = json.dumps(todo, ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json"}
    for _ in range(100):
        response = user.api.post("/todos", user.access, data=body, headers=headers)
        assert response.status_code == 201


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


@pytest.mark.slow
def test_readers_that_never_read_let_go_of_large_pages(mongod, database, start):
    server = start(mongod.uri, WEB_CONCURRENCY="1")
    alice = InsertedUser(server, database, "alice")
    add_longest_todos(alice)
    request = head("GET /todos?limit=100 HTTP/1.1", f"Authorization: Bearer {alice.access}")

    def page():
        return server.get("/todos?limit=100", alice.access)

    with contextlib.ExitStack() as stack:
        # One after the other: at the same time, they would take longer than the deadline. The
        # system can take over some pages whole, so it is not known how many readers it takes.
        def one_more_reader_fills_the_memory():
            connection = stack.enter_context(connect(server))
            connection.sendall(request)
            connection.recv(1)
            return page().status_code == 503

        wait_for(one_more_reader_fills_the_memory, seconds=30)
        assert_error(page(), 503, "server_busy")
        assert server.get("/todos?limit=1", alice.access).status_code == 200
        # A client may pause for 30 seconds while it reads.
        wait_for(lambda: page().status_code == 200, seconds=60)
