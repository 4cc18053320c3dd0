"""What only uWSGI and gevent know: how a worker starts and ends, and how a request arrives in it.

Only run.py imports this file. Above it the app sees a plain WSGI request, as under `python app.py`.
"""

import contextlib
import io
import os
import re
import signal
import socket
from urllib.parse import unquote_to_bytes

import gevent
import gevent.socket
import gevent.threadpool

# uWSGI puts this module into the processes that it runs; pip cannot install it.
import uwsgi
from werkzeug.exceptions import HTTPException

from resources import passwords
from resources.errors import fail

# How many requests of a worker may hash at the same time. tests/README.md has the measurements.
HASHING_SLOTS = 1

# In seconds, for a whole body, even after an error. A client that sends a byte now and then has no
# longer.
BODY_SECONDS = 10
# In seconds, after the signal that ends a worker. A request that was sent before the signal may
# still wait to be accepted, or be on its way.
ACCEPT_SECONDS = 2

# What every request has.
REQUIRED = {
    "REQUEST_METHOD",
    "REQUEST_URI",
    "PATH_INFO",
    "QUERY_STRING",
    "SERVER_NAME",
    "SERVER_PORT",
    "REMOTE_ADDR",
}
# RFC 9110, 5.6.2: what a method and the name of a header consist of.
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# RFC 9112, 3.2.1 and 3.2.2: a path, or a whole URL. No target holds white space or a fragment.
ORIGIN_FORM = re.compile(r"(?P<path>/[^\0- \x7f#?]*)(\?[^\0- \x7f#]*)?")
ABSOLUTE_FORM = re.compile(
    r"https?://(?P<host>[^\0- \x7f#/?]+)(?P<path>/[^\0- \x7f#?]*)?(\?[^\0- \x7f#]*)?",
    re.IGNORECASE,
)


# A worker.


def prepare_worker():
    """Prepare a worker. uWSGI calls this in each one, after it has forked it from the master."""
    # A hash in a greenlet would stop all other requests of the worker. So a thread computes it.
    threads = gevent.threadpool.ThreadPoolExecutor(HASHING_SLOTS)
    passwords.queue = passwords.HashingQueue(HASHING_SLOTS, threads)
    # Heroku sends SIGTERM to each process, and uWSGI's master sends SIGINT to each worker. The
    # handlers are not set now, but in greenlets, which run later: until then, uWSGI sets its own,
    # and those end the worker immediately.
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.spawn(signal.signal, number, end_gracefully)


def end_gracefully(_number, _frame):
    """Let this worker accept requests for ACCEPT_SECONDS, and end after the last of them."""
    # On SIGHUP, a worker with gevent accepts no more, finishes its requests, and ends.
    gevent.spawn_later(ACCEPT_SECONDS, os.kill, os.getpid(), signal.SIGHUP)


uwsgi.post_fork_hook = prepare_worker


# A request.


class PlainRequests:
    """A WSGI function around the app. It rejects what is not HTTP, and receives the whole body."""

    def __init__(self, app, most):
        """Wrap the WSGI function `app`, whose requests have bodies of at most `most` bytes."""
        self.app = app
        self.most = most

    def __call__(self, environ, start_response):
        """Respond to one request, as PEP 3333 describes a WSGI function."""
        try:
            check_request_line(environ)
            check_framing(environ, self.most)
            receive_body(environ, self.most)
        except HTTPException as error:
            send_and_linger(error.get_response(), environ.get("REQUEST_METHOD"))
            return []
        return self.app(environ, start_response)


def check_request_line(environ):
    """Abort with 400 if this is not the first line of an HTTP request."""
    # uWSGI leaves out what it does not find, and what does not fit its buffer: a long query.
    if not REQUIRED <= environ.keys() or not TOKEN.fullmatch(environ["REQUEST_METHOD"]):
        fail("bad_request", "The request line is malformed, or too long.")
    if environ.get("SERVER_PROTOCOL") not in ("HTTP/1.0", "HTTP/1.1"):
        fail("bad_request", "The request line must end with HTTP/1.1 or HTTP/1.0.")
    target = environ["REQUEST_URI"]
    found = ORIGIN_FORM.fullmatch(target) or ABSOLUTE_FORM.fullmatch(target)
    if not found:
        fail("bad_request", "The request line must hold a path, such as /todos, or a whole URL.")
    if found.re is ABSOLUTE_FORM:
        environ["HTTP_HOST"] = found["host"]
    # uWSGI's own path is another one: without a % that begins no escape, and with /.. resolved.
    # PEP 3333: the bytes of the path, each as one character.
    path = (found["path"] or "/").encode("latin-1")
    environ["PATH_INFO"] = unquote_to_bytes(path).decode("latin-1")


def check_framing(environ, most):
    """Abort with 400 if the headers do not say clearly where the body ends, 413 if it is too large.

    Two programs that understand such headers differently see different requests (RFC 9112, 11.2).
    """
    if not all(map(TOKEN.fullmatch, environ)):
        fail(
            "bad_request",
            "The name of a header must be letters, digits and -, directly before the colon.",
        )
    coding = environ.get("HTTP_TRANSFER_ENCODING")
    # If a header is repeated, uWSGI joins the values with commas.
    length = environ.get("CONTENT_LENGTH", "0")
    if coding is not None and "CONTENT_LENGTH" in environ:
        fail("bad_request", "Send either Content-Length or Transfer-Encoding, not both.")
    if coding is not None and coding.strip(" \t").lower() != "chunked":
        fail("bad_request", "The header Transfer-Encoding must be chunked, or be left out.")
    # Not even a space behind the number: uWSGI would count it as a digit.
    if not re.fullmatch("[0-9]+", length):
        fail("bad_request", "The header Content-Length must be one number, in digits.")
    # Python converts no number of thousands of digits, not even of zeros.
    length = length.lstrip("0") or "0"
    if len(length) > 18 or int(length) > most:
        fail("request_too_large")


def receive_body(environ, most):
    """Replace the connection by the body that has arrived from it. Aborts with 400 or 413."""
    chunked = "HTTP_TRANSFER_ENCODING" in environ
    if not chunked and environ.get("CONTENT_LENGTH", "").strip("0") == "":
        return
    body = None
    # uWSGI raises OSError if the connection ends, a chunk is malformed or the time is over.
    with contextlib.suppress(OSError), waking_after(BODY_SECONDS):
        if expects_100_continue(environ):
            os.write(uwsgi.connection_fd(), b"HTTP/1.1 100 Continue\r\n\r\n")
        body = join_chunks(most) if chunked else join_lines(environ["wsgi.input"])
    if body is None and chunked:
        fail(
            "bad_request",
            "The body has not arrived completely, or one of its chunks is malformed, larger than 64"
            " KiB or has an extension.",
        )
    if body is None:
        fail("bad_request", "The body has not arrived completely. Send it again.")
    # From here the body has a length, as if the client had sent it so.
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    environ["CONTENT_LENGTH"] = str(len(body))
    environ["wsgi.input"] = io.BytesIO(body)


def expects_100_continue(environ):
    """Return whether the client waits for a `100 Continue` before it sends the body.

    RFC 9110, 10.1.1: in any case of letters, and never in HTTP/1.0.
    """
    expected = environ.get("HTTP_EXPECT", "").lower()
    return "100-continue" in expected and environ["SERVER_PROTOCOL"] == "HTTP/1.1"


@contextlib.contextmanager
def waking_after(seconds):
    """After so many seconds within a block, wake this greenlet if it waits for the client.

    uWSGI, which waits, then reads from the connection, finds nothing and raises OSError. With an
    exception in place of that, such as gevent's Timeout, uWSGI would leave its watcher of the
    connection behind. When the connection is closed, gevent aborts the whole process because of it.
    """
    # If bytes do arrive at that moment, uWSGI goes on. So the greenlet is woken repeatedly.
    with gevent.get_hub().loop.timer(seconds, repeat=0.1) as timer:
        timer.start(gevent.getcurrent().switch)
        yield


def join_lines(stream):
    """Return a body with a length, from the connection `stream`."""
    body = bytearray()
    # Not `read`, which would wait again after it was woken. Not `readlines`, which keeps an object
    # for each line while it waits: 64 KiB of short lines would take 2 MB.
    while line := stream.readline():
        body += line
    return bytes(body)


def join_chunks(most):
    """Return a body that arrives in chunks, each behind its length. Aborts with 413.

    uWSGI mistakes a length that is not a number for 0, which is the end. The rest is then lost, and
    this function cannot tell.
    """
    body = bytearray()
    while chunk := uwsgi.chunked_read():
        body += chunk
        if len(body) > most:
            fail("request_too_large")
    return bytes(body)


def send_and_linger(response, method):
    """Send a response to a client that may still be sending, and drop what it sends.

    Not through uWSGI, for two reasons. It would begin the response with whatever the request line
    has in place of HTTP/1.1. And it would close the connection with unread bytes in it: the client
    then finds a reset connection and no response. nginx calls this a lingering close.
    """
    head = [
        f"HTTP/1.1 {response.status}",
        *[f"{name}: {value}" for name, value in response.headers],
    ]
    head += ["Connection: close", "", ""]
    # RFC 9110, 9.3.2.
    body = b"" if method == "HEAD" else response.get_data()
    connection = gevent.socket.socket(fileno=uwsgi.connection_fd())
    try:
        with gevent.Timeout(BODY_SECONDS, False), contextlib.suppress(OSError):
            connection.sendall("\r\n".join(head).encode() + body)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(64 * 1024):
                pass
    finally:
        # uWSGI closes the connection.
        connection.detach()
