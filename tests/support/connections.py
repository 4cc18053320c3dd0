"""Connections on which a test writes bytes itself, as no HTTP client would send them."""

import contextlib
import json
import socket
import threading
import time

from requests.structures import CaseInsensitiveDict

# What a client may still be sending when the server has found an error.
TWO_MEGABYTES = b" " * 2_000_000


def connect(server):
    """Open a connection to the server."""
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def send(server, *parts, pause=0, half_close=False):
    """Send the parts of a request with a pause between them, and return the response.

    Fails if the connection is reset, even behind the response: the client of another operating
    system would then have lost the response.
    """
    with connect(server) as connection:
        for number, part in enumerate(parts):
            time.sleep(pause if number else 0)
            connection.sendall(part)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        return RawResponse(received(connection))


def received(connection):
    """Return all bytes that come until the server closes the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def sent_despite_reset(server, *parts):
    """Send the parts of a request, and return all bytes that come until the connection ends."""
    data = b""
    with connect(server) as connection, contextlib.suppress(ConnectionError):
        for part in parts:
            connection.sendall(part)
        while part := connection.recv(65536):
            data += part
    return data


class RawResponse:
    """A response with what `assert_error` reads of it. `data` is all that was received."""

    def __init__(self, data):
        self.data = data
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        assert first.startswith(("HTTP/1.1 ", "HTTP/1.0 ")), data[:200]
        self.status_code = int(first.split(" ")[1])
        self.headers = CaseInsensitiveDict(line.split(": ", 1) for line in lines)
        assert len(self.headers) == len(lines), head
        self.text = body.decode()

    def json(self):
        """Return the value of the body."""
        return json.loads(self.text)


def head(line, *headers):
    """Return the first line and the headers of a request, each a string or bytes."""
    lines = [line, "Host: x", *headers, "", ""]
    return b"\r\n".join(part.encode() if isinstance(part, str) else part for part in lines)


def chunks(body, size=None):
    """Return a body in chunks of this size (by default in one), with the last chunk."""
    size = size or len(body)
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


# Slow clients.

LOGIN = ("POST /login HTTP/1.1", "Content-Type: application/json")
HALF_HEADERS = head(*LOGIN)[:-2] + b"Authorization: B"
HALF_BODY = head(*LOGIN, "Content-Length: 99") + b"{"
HALF_CHUNK = head(*LOGIN, "Transfer-Encoding: chunked") + b"63\r\n{"


@contextlib.contextmanager
def dripping(server, number):
    """Keep so many connections open that send a byte a second, half of them in their headers."""
    going = threading.Event()
    going.set()
    starts = [HALF_HEADERS, HALF_BODY, HALF_HEADERS, HALF_CHUNK]

    def drip():
        connections = {}
        while going.is_set():
            for place in range(number):
                try:
                    connections[place].send(b" ")
                except (KeyError, OSError):
                    # It does not exist yet, or the server has ended it: a body has 10 seconds.
                    connections[place] = connect(server)
                    connections[place].sendall(starts[place % 4])
            opened.set()
            time.sleep(1)
        for connection in connections.values():
            connection.close()

    opened = threading.Event()
    thread = threading.Thread(target=drip)
    thread.start()
    try:
        assert opened.wait(60)
        yield
    finally:
        going.clear()
        thread.join()
