"""Passwords: which ones are accepted, their hashes, and how many requests may hash at a time.

A hash takes memory and time on purpose: an attacker who steals the database needs both for every
guess. Read requests must not wait for it. So one thread of each process computes all hashes, and at
most half of the process's threads serve requests that need one.
"""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from passlib.context import CryptContext
from werkzeug.exceptions import ServiceUnavailable

# Argon2id with 19 MiB of memory, 2 passes, 1 lane: the OWASP Password Storage Cheat Sheet. You can
# raise these parameters at any time: a login replaces an older hash of its user.
hashes = CryptContext(
    ["argon2"],
    argon2__type="ID",
    argon2__memory_cost=19 * 1024,
    argon2__rounds=2,
    argon2__parallelism=1,
)

# NIST 800-63B-4 requires that at least 64 characters are allowed.
LONGEST = 256

# The first passwords that an attacker guesses (OWASP ASVS 5.0, 6.2.4). These are the ones with 8 or
# more characters from two lists, in lower case: `common-passwords.txt.gz` of Django 5.2 (BSD
# license) and the passwords of zxcvbn 4.5 (MIT license).
COMMON = frozenset(
    Path(__file__).with_name("common_passwords.txt").read_text(encoding="utf-8").splitlines()
)

try:
    # uWSGI puts this module into the processes that it runs; pip cannot install it.
    import uwsgi

    THREADS = int(uwsgi.opt["threads"])
except ImportError:
    # `python app.py` starts a thread for each request. It gets the limit of production.
    THREADS = 8

# Half of the threads. A process with a single thread gets one slot.
hashing_slots = threading.BoundedSemaphore(max(1, THREADS // 2))


@contextlib.contextmanager
def hashing_slot():
    """Take one of the hashing slots for as long as a request lasts: `@hashing_slot()`.

    Raises ServiceUnavailable immediately if all are taken. This decorator comes first, even before
    the check of a token, so a rejected request sends no query to MongoDB.
    """
    if not hashing_slots.acquire(blocking=False):
        raise ServiceUnavailable(retry_after=1)
    try:
        yield
    finally:
        hashing_slots.release()


# One thread, because each thread that has hashed keeps its 19 MiB of memory. It starts at the first
# hash. Never hash while the app is being loaded: uWSGI then forks a process whose hashing thread
# has started. A fork does not copy threads, so every worker would wait forever.
hashing_thread = ThreadPoolExecutor(max_workers=1)


def hash_password(password):
    """Return the hash of a password, for the database."""
    return hashing_thread.submit(hashes.hash, password).result()


def verify_password(password, stored_hash):
    """Return whether the hash is of this password, and a new hash if its parameters are outdated.

    `stored_hash` is None if there is no such user. Then passlib hashes something else, which takes
    the same time, so the time does not reveal which usernames exist.
    """
    # passlib raises an error for more than 4,096 characters. A longer password is cut to
    # LONGEST + 1 of them. It is still longer than any registered one, and therefore still wrong.
    password = password[: LONGEST + 1]
    return hashing_thread.submit(hashes.verify_and_update, password, stored_hash).result()


def is_common(password):
    """Return whether attackers guess this password first, in upper or lower case."""
    return password.lower() in COMMON
