"""Rate limits: how many wrong passwords and registrations are accepted, and from where.

The counters are in MongoDB, because all worker processes and all dynos must share them. Each
username, each client address, each pair of the two and each session that changes its password has a
document with the times of its latest attempts. So has each address that registers users:

    {"_id": "username alice", "attempts": [<time>, <time>], "admitted": true, "expires_at": <time>}

An attempt is counted before the password is verified. If attempts were counted afterwards, a
hundred concurrent attempts would all pass before the first one counts. If the password is right,
the attempt is removed from its counters before anything else is written. Otherwise a client that
repeats its request during an outage would use up the limit with the right password. A login also
resets the counters of its username, after it has opened its session.

The package `limits` has a moving window on MongoDB as well. In 50 of 300 bursts of 8 attempts on an
unused key it rejected one attempt wrongly, because version 5.8.0 mistakes a duplicate key for a
reached limit. It also cannot undo a single attempt.
"""

import contextlib
import math
from datetime import datetime, timedelta, timezone
from ipaddress import IPv6Network, ip_address
from typing import NamedTuple

from flask import current_app, request
from pymongo import ReturnDocument, UpdateOne
from werkzeug.exceptions import HTTPException

import db
from resources.errors import fail

# Removes the newest time of a document. It can be the time of a concurrent attempt; what matters is
# that there is one less.
ONE_ATTEMPT_LESS = {"$pop": {"attempts": 1}}

# What all clients share whose X-Forwarded-For the router has not written alone.
UNKNOWN_ADDRESS = "unknown"


class RateLimit(NamedTuple):
    """At most `most` attempts within `window`, counted in the document whose `_id` is `key`."""

    key: str
    most: int
    window: timedelta


def client_address():
    """Return the address that the request comes from, as the rate limits count it."""
    address = request.remote_addr
    if current_app.config["BEHIND_ROUTER"]:
        # Every connection comes from Heroku's router, which writes the client's address here.
        address = request.headers.get("X-Forwarded-For", address)
    try:
        address = ip_address(address)
    except ValueError:
        # The client has sent this header itself, and the router has appended the address to it. All
        # such requests count as one address, so an attacker gets no new counter this way.
        return UNKNOWN_ADDRESS
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    # A provider gives each customer a /64 or more, which is 2 to the power of 64 addresses. If each
    # of them counted alone, one customer could guess forever.
    return str(IPv6Network((int(address), 64), strict=False))


def count_registration():
    """Count a registration. Aborts with 429 if the client's address has too many."""
    count(RateLimit(f"registrations {client_address()}", 100, timedelta(hours=1)))


def count_password_change(session_id):
    """Count an attempt at the current password, and return its limit for `remove_attempt`.

    By session and by nothing else: an attacker who has stolen a token has these attempts from all
    addresses together, and no stranger can use up the attempts of the owner. Aborts with 429 if the
    session has too many.
    """
    limit = RateLimit(f"session {session_id}", 10, timedelta(minutes=15))
    count(limit)
    return limit


def remove_attempt(limits):
    """Remove one attempt from the counter of each limit."""
    # The list holds only updates, because PyMongo sends such a list to MongoDB as one command.
    db.rate_limits().bulk_write(
        [UpdateOne({"_id": limit.key}, ONE_ATTEMPT_LESS) for limit in limits]
    )


class LoginAttempt:
    """One attempt to log in as a user."""

    def __init__(self, username):
        """Prepare an attempt of the client that sends this request."""
        self.address = client_address()
        # Against password spraying: one password, many usernames.
        self.by_address = RateLimit(f"address {self.address}", 100, timedelta(minutes=15))
        # Few, so that an attacker is stopped soon, and the owner at another address is not.
        self.by_username_and_address = RateLimit(
            f"username {username} address {self.address}", 10, timedelta(minutes=15)
        )
        # Against an attacker with many addresses. NIST 800-63B-4, 3.2.2, allows 100 attempts.
        self.by_username = RateLimit(f"username {username}", 100, timedelta(hours=1))
        self.counted = []

    def count_address(self):
        """Count this attempt by the client's address, alone and with the username.

        Aborts with 429, and counts nothing, if one of the limits is reached.
        """
        # The address comes first: once it has reached its limit, it adds no more documents.
        self.count_by(self.by_address)
        self.count_by(self.by_username_and_address)

    def count_username(self):
        """Count this attempt by the username. Aborts with 429, and counts nothing, if it is full.

        With this limit, an attacker could lock the owner out. So UserLogin does not call this for
        an address that the owner has logged in from.
        """
        self.count_by(self.by_username)

    def count_by(self, limit):
        """Count this attempt by one limit. If it is reached, remove what has been counted."""
        try:
            count(limit)
        except HTTPException:
            if self.counted:
                remove_attempt(self.counted)
            raise
        self.counted.append(limit)

    def remove(self):
        """Remove this attempt from all its counters, because its password was right."""
        remove_attempt(self.counted)

    def count_again(self):
        """Count this attempt after all, because no session was opened."""
        for limit in self.counted:
            # At a limit, the client gets the error that it would have got before, and not a 429.
            with contextlib.suppress(HTTPException):
                count(limit)

    def reset(self):
        """Reset the username's counters, in all and at this address, after a session was opened.

        The counter of the address stays. Otherwise an attacker could reset it at any time, with a
        login to an account that the attacker owns.
        """
        no_attempts = {"$set": {"attempts": []}}
        db.rate_limits().bulk_write(
            [
                UpdateOne({"_id": self.by_username_and_address.key}, no_attempts),
                UpdateOne({"_id": self.by_username.key}, no_attempts),
            ]
        )


def count(limit):
    """Add an attempt to the document of `limit`. If the limit is reached, adds nothing: 429.

    This is one atomic operation: MongoDB lets no other operation change the document between its
    steps.
    """
    now = datetime.now(timezone.utc)
    # Step 1: drop the times outside the window. (A new document has none.)
    recent = {
        "$filter": {
            "input": {"$ifNull": ["$attempts", []]},
            "cond": {"$gt": ["$$this", now - limit.window]},
        }
    }
    # Step 2: is there room for one more?
    has_room = {"$lt": [{"$size": "$attempts"}, limit.most]}
    # Step 3: if so, append it, and keep the document for as long as its newest time counts.
    appended = {"$cond": ["$admitted", {"$concatArrays": ["$attempts", [now]]}, "$attempts"]}
    counter = db.rate_limits().find_one_and_update(
        {"_id": limit.key},
        [
            {"$set": {"attempts": recent}},
            {"$set": {"admitted": has_room}},
            {"$set": {"attempts": appended, "expires_at": now + limit.window}},
        ],
        upsert=True,
        return_document=ReturnDocument.AFTER,
    )
    if not counter["admitted"]:
        fail("too_many_attempts", retry_after=seconds_until_room(limit, min(counter["attempts"])))


def seconds_until_room(limit, oldest):
    """Return after how many seconds the `oldest` attempt has left the window."""
    # PyMongo returns UTC in a datetime without a time zone.
    ends_at = oldest.replace(tzinfo=timezone.utc) + limit.window
    seconds = (ends_at - datetime.now(timezone.utc)).total_seconds()
    return max(1, math.ceil(seconds))
