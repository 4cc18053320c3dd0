"""Passwords: made into hashes, compared with hashes, and never more at once than the process bears.

A hash costs memory and time on purpose: whoever steals the database has to pay that price for every
guess. The price must not be paid by those who only read their todos. So one thread of each process
computes all hashes, one after another. Only half of the process's threads may wait for it, and the
other half answers everybody else. Whoever would be the next is turned away, and is held back for a
moment first, so that nobody can fill the server with refusals.
"""

import contextlib
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from passlib.context import CryptContext
from werkzeug.exceptions import ServiceUnavailable

# Argon2id with 19 MiB of memory, 2 passes, 1 lane: the OWASP Password Storage Cheat Sheet. You can
# raise these figures at any time: an older hash is replaced when its user logs in.
hashes = CryptContext(
    ["argon2"],
    argon2__type="ID",
    argon2__memory_cost=19 * 1024,
    argon2__rounds=2,
    argon2__parallelism=1,
)

# NIST 800-63B-4 wants at least 64 characters to be allowed.
LONGEST = 256

try:
    # uWSGI puts this module into the processes that it runs; it cannot be installed.
    import uwsgi

    THREADS = int(uwsgi.opt["threads"])
except ImportError:
    # `python app.py` starts a thread for each request. It gets the limit that production has.
    THREADS = 12

# How many requests may wait for a hash: half of the threads. A process with a single thread has no
# half; it hashes all the same.
MOST_WAITING = max(1, THREADS // 2)
# And how long, in seconds. If hashes are slow at this moment, fewer requests may wait for them.
LONGEST_WAIT = 0.4
# For how long, in seconds, a process that had to turn somebody away turns the next ones away before
# it has asked MongoDB anything.
BUSY_FOR = 0.05
# How long, in seconds, a refusal is held back. See `hold_back`.
PAUSE = 0.0005

# What the threads of this process know together. They change it only while they hold the lock.
lock = threading.Lock()
waiting = 0
seconds_each = 0.0
busy_until = 0.0

# Whoever holds this one is being refused. Only one thread at a time can.
refusing = threading.Lock()


def lower_priority():
    """Let the thread that hashes give way to the threads that answer requests."""
    # Only on Linux is a priority a matter of one thread. Elsewhere it would slow the whole process.
    if sys.platform == "linux":
        os.nice(10)


# One thread, since every thread that has hashed keeps its 19 MiB of memory. It starts at the first
# hash. Never hash anything while the app is being loaded: uWSGI would then copy a process whose
# thread has already started, threads are not copied, and every worker would wait for ever.
hashing_thread = ThreadPoolExecutor(max_workers=1, initializer=lower_priority)


@contextlib.contextmanager
def place():
    """Be one of the requests that wait for a hash.

    Raises ServiceUnavailable if too many are waiting already.
    """
    global waiting, seconds_each
    with lock:
        admitted = not no_place()
        if admitted:
            waiting += 1
            position = waiting
    if not admitted:
        turn_away()
    begin = time.monotonic()
    try:
        yield
    finally:
        with lock:
            waiting -= 1
            seconds_each = (time.monotonic() - begin) / position


def no_place():
    """Whether one more request would be one too many, or would wait too long."""
    # Whoever is alone never waits too long, since then `waiting` is 0.
    return waiting >= MOST_WAITING or waiting * seconds_each > LONGEST_WAIT


def turn_away():
    """Raise ServiceUnavailable, and be busy for a moment."""
    global busy_until
    with lock:
        busy_until = time.monotonic() + BUSY_FOR
    hold_back()
    raise ServiceUnavailable(retry_after=1)


def hold_back():
    """Wait for a moment before a refusal, one request after the other.

    Somebody who sends passwords in a loop sends the next one when the last one is refused. So they
    can be slowed down: in each process one refusal leaves at a time, and each takes this long. An
    honest client does not notice it, and the processor is free for those who read.
    """
    with refusing:
        time.sleep(PAUSE)


def refuse_if_busy():
    """Raise ServiceUnavailable if this process has just turned somebody away, and has no place yet.

    For a request that has other work to do before it takes a place.
    """
    with lock:
        busy = time.monotonic() < busy_until and no_place()
    if busy:
        turn_away()


def hash_password(password):
    """The hash of a password, for the database. Raises ServiceUnavailable."""
    with place():
        return hashing_thread.submit(hashes.hash, password).result()


def check_password(password, stored_hash):
    """Whether the password is the one of the hash, and a new hash if the old one is out of date.

    If `stored_hash` is None there is no such user. passlib then hashes something else, to take the
    same time: it must not tell who is registered. Raises ServiceUnavailable.
    """
    # passlib refuses to look at more than 4,096 characters. A password that is longer than any that
    # can be registered is wrong, and stays wrong when it is cut to one character too many.
    password = password[: LONGEST + 1]
    with place():
        return hashing_thread.submit(hashes.verify_and_update, password, stored_hash).result()
