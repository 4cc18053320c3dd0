"""Passwords: made into hashes, compared with hashes, and never more at once than the process bears.

A hash costs memory and time on purpose: whoever steals the database has to pay that price for every
guess. The price must not be paid by those who only read their todos, so two things are limited
here. One thread of each process computes all hashes, one after another. And only half of the
process's threads may wait for it, so that the other half always answers everybody else.
"""

import contextlib
import os
import sys
import threading
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
    THREADS = 6

# A process with a single thread has no half; it hashes all the same.
places = threading.BoundedSemaphore(max(1, THREADS // 2))


def lower_priority():
    """Let the thread that hashes give way to the threads that answer requests."""
    # Only on Linux is a priority a matter of one thread. Elsewhere it would slow the whole process.
    if sys.platform == "linux":
        os.nice(5)


# One thread, since every thread that has hashed keeps its 19 MiB of memory. It starts at the first
# hash. Never hash anything while the app is being loaded: uWSGI would then copy a process whose
# thread has already started, threads are not copied, and every worker would wait for ever.
hashing_thread = ThreadPoolExecutor(max_workers=1, initializer=lower_priority)


@contextlib.contextmanager
def place():
    """Hold one of the places for requests that wait for a hash.

    Raises ServiceUnavailable if all are taken.
    """
    if not places.acquire(blocking=False):
        raise ServiceUnavailable(retry_after=1)
    try:
        yield
    finally:
        places.release()


def refuse_if_busy():
    """Raise ServiceUnavailable if all places are taken: for a request that has more to do first."""
    with place():
        pass


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
