"""Passwords: which ones are accepted, their hashes, and how many requests may hash at a time.

A hash takes memory and time on purpose: an attacker who steals the database needs both for every
guess. Read requests must not wait for it. So each process computes one hash at a time, and the
requests that need one queue.
"""

import contextlib
import secrets
import threading
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from passlib.context import CryptContext

from resources.errors import fail, log_error

# Argon2id with 19 MiB of memory, 2 passes, 1 lane: the OWASP Password Storage Cheat Sheet. You can
# raise these parameters at any time: a login replaces an older hash of its user. Until then, this
# hash takes less time than NO_PASSWORD, and the response time reveals that the user exists.
hashes = CryptContext(
    ["argon2"],
    argon2__type="ID",
    argon2__memory_cost=19 * 1024,
    argon2__rounds=2,
    argon2__parallelism=1,
)

# The hash of a password that no client knows. It is verified where there is no other hash.
NO_PASSWORD = hashes.hash(secrets.token_hex())

# NIST 800-63B-4 requires that at least 64 characters are allowed.
LONGEST = 256
# Normalization makes one character of at most 4. A password with more characters than this is
# therefore longer than LONGEST, however it is normalized.
LONGEST_RAW = 4 * LONGEST

# The first passwords that an attacker guesses (OWASP ASVS 5.0, 6.2.4). These are the ones with 8 or
# more characters from two lists, in lower case: `common-passwords.txt.gz` of Django 5.2 and the
# passwords of zxcvbn 4.5. Their licenses are in common_passwords.LICENSES.txt.
COMMON = frozenset(
    Path(__file__).with_name("common_passwords.txt").read_text(encoding="utf-8").splitlines()
)


class HashingQueue:
    """The slots in which a process hashes, and the bounded number of requests that wait for one."""

    # In seconds.
    LONGEST_WAIT = 2
    # Half of the requests that a worker can serve (`gevent` in uwsgi.ini): a flood of logins leaves
    # the other half to the rest. A smaller number would not protect more, because a client that is
    # rejected immediately takes more processor time than one that waits.
    MOST_WAITING = 400

    def __init__(self, slots, executor):
        """Create a queue for so many slots. `executor` computes the hashes, in threads."""
        self.slots = threading.BoundedSemaphore(slots)
        self.places = threading.BoundedSemaphore(slots + self.MOST_WAITING)
        self.executor = executor

    @contextlib.contextmanager
    def slot(self):
        """Wait for a slot, and hold it for the block of a `with`.

        Aborts with 503 if too many requests wait, or if this one has waited LONGEST_WAIT seconds.
        Take the slot before the first query, so that a rejected request sends no query to MongoDB.
        """
        if not self.places.acquire(blocking=False):
            fail("server_busy", retry_after=self.LONGEST_WAIT)
        try:
            if not self.slots.acquire(timeout=self.LONGEST_WAIT):
                fail("server_busy", retry_after=self.LONGEST_WAIT)
            try:
                yield
            finally:
                self.slots.release()
        finally:
            self.places.release()

    def compute(self, function, *arguments):
        """Return the result of a function that hashes, computed by the executor."""
        return self.executor.submit(function, *arguments).result()


# In production, resources/uwsgi_worker.py replaces it.
queue = HashingQueue(1, ThreadPoolExecutor(max_workers=1))


def normalize(password):
    """Return the password in Unicode's form NFC (NIST 800-63B-4, 3.1.1.2).

    A Mac and a phone spell é differently, as one character or as e with an accent. A password that
    is too long is cut first, because normalizing it would take time. It is still too long, and
    short enough for passlib, which raises an error for more than 4,096 characters.
    """
    return unicodedata.normalize("NFC", password[: LONGEST_RAW + 1])


def hash_password(password):
    """Return the hash of a password, for the database."""
    return queue.compute(hashes.hash, normalize(password))


def verify_password(password, stored_hash):
    """Return whether the hash is of this password, and a new hash if its parameters are outdated.

    `stored_hash` is None if there is no such user. Then another hash is verified, which takes the
    same time, so the time does not reveal which usernames exist. A stored value that is not a hash
    of this API gets the same treatment, and a line in the log.
    """
    password = normalize(password)
    if stored_hash is not None:
        result = queue.compute(verify, password, stored_hash)
        if result is not None:
            return result
        log_error(
            "A user cannot log in, because the stored password is not a hash of this API."
            " README.md says how to set a new one: see A forgotten password"
        )
    queue.compute(hashes.verify, password, NO_PASSWORD)
    return False, None


def verify(password, stored_hash):
    """Return what passlib's `verify_and_update` returns, None if `stored_hash` is not a hash.

    The executor calls this. If it raised the error, gevent would log a traceback for each one.
    """
    try:
        return hashes.verify_and_update(password, stored_hash)
    except (TypeError, ValueError, NotImplementedError):
        return None


def is_common(password):
    """Return whether attackers guess this password first, in upper or lower case."""
    return password.lower() in COMMON
