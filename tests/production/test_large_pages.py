"""A page of 6 MB arrives whole even if its reader pauses, and is dropped if it is not read."""

import contextlib
import socket
import time
from datetime import datetime

import pytest
from bson import ObjectId
from support.clients import InsertedUser, assert_error
from support.connections import RawResponse, head, received
from support.processes import wait_for


def add_longest_todos(user, database):
    """Add the todos of a page of 6 MB."""
    todo = {"owner_id": ObjectId(user.id), "name": "x" * 200, "done": False}
    # JSON has an escape of six characters for this one.
    todo |= {"description": "\x01" * 10_000, "created_at": datetime(2026, 1, 1)}
    database.todos.insert_many([{**todo} for _ in range(100)])


def slow_reader(server, user):
    """Request the page, and return the connection."""
    connection = socket.socket()
    # Before the connection, so that the client's system keeps little of the response.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", server.port))
    token = f"Authorization: Bearer {user.access}"
    connection.sendall(head("GET /todos?limit=100 HTTP/1.1", token))
    return connection


@pytest.mark.slow
def test_reader_that_pauses_gets_its_whole_page(api, database, alice):
    add_longest_todos(alice, database)
    with slow_reader(api, alice) as connection:
        start = connection.recv(1000)
        # These pauses are the case that the test is about.
        time.sleep(6)
        start += connection.recv(100_000)
        time.sleep(6)
        response = RawResponse(start + received(connection))
    assert response.status_code == 200
    assert len(response.json()["todos"]) == 100
    assert len(response.text.encode()) == int(response.headers["Content-Length"]) > 6_000_000


@pytest.mark.slow
def test_readers_that_never_read_let_go_of_large_pages(mongod, database, start):
    server = start(mongod.uri, WEB_CONCURRENCY="1")
    alice = InsertedUser(server, database, "alice")
    add_longest_todos(alice, database)
    log = server.log.read_text()

    def page():
        return server.get("/todos?limit=100", alice.access)

    with contextlib.ExitStack() as stack:
        # One after the other: at the same time, they would take longer than the deadline.
        def one_more_reader_fills_the_memory():
            stack.enter_context(slow_reader(server, alice)).recv(1)
            return page().status_code == 503

        wait_for(one_more_reader_fills_the_memory, seconds=30)
        assert_error(page(), 503, "server_busy")
        assert server.get("/todos?limit=1", alice.access).status_code == 200
        # A client may pause for 30 seconds while it reads.
        wait_for(lambda: page().status_code == 200, seconds=60)
    # A flood of these would wash everything else out of Heroku's log.
    assert server.log.read_text() == log
