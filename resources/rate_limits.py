"""Rate limits: how many wrong passwords and registrations are accepted, and from where.

The counters are in MongoDB, because all worker processes and all dynos must share them. Each
username, each client address and each pair of the two has a document with the times of its latest
attempts:

    {"_id": "username alice", "attempts": [<time>, <time>], "admitted": true, "expires_at": <time>}

An attempt is counted before the password is verified. If attempts were counted afterwards, a
hundred concurrent attempts would all pass before the first one counts. If the password was right,
the counters of the username are reset.

The package `limits` has a moving window on MongoDB as well. In 50 of 300 bursts of 8 attempts on an
unused key it rejected one attempt wrongly, because version 5.8.0 mistakes a duplicate key for a
reached limit. It also cannot undo a single attempt.
"""

import math
import re
from datetime import datetime, timedelta, timezone
from ipaddress import IPv6Network, ip_address
from typing import NamedTuple

from flask import current_app, request
from pymongo import ReturnDocument, UpdateOne
from werkzeug.exceptions import TooManyRequests

import db

# How long a login makes an address one of the user's own.
OWN_ADDRESS = timedelta(days=30)
# Removes the newest time of a document. It can be the time of a concurrent attempt; what matters is
# that there is one less.
ONE_ATTEMPT_LESS = {"$pop": {"attempts": 1}}


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
        return "unknown"
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    # A provider gives each customer a /64 or more, which is 2 to the power of 64 addresses. If each
    # of them counted alone, one customer could guess forever.
    return str(IPv6Network((int(address), 64), strict=False))


def count_registration():
    """Count a registration. Raises TooManyRequests if the client's address has too many."""
    count(RateLimit(f"registrations {client_address()}", 100, timedelta(hours=1)))


class Attempt:
    """One attempt at the password of a user."""

    def __init__(self, username, has_fresh_token=False):
        """Prepare an attempt of the client that sends this request; `count` counts it."""
        address = client_address()
        self.has_fresh_token = has_fresh_token
        # Against password spraying: one password, many usernames.
        self.by_address = RateLimit(f"address {address}", 100, timedelta(minutes=15))
        # Few, so that an attacker is stopped soon, and the owner at another address is not.
        self.by_username_and_address = RateLimit(
            f"username {username} address {address}", 10, timedelta(minutes=15)
        )
        # Against an attacker with many addresses. NIST 800-63B-4, 3.2.2, allows 100 attempts.
        self.by_username = RateLimit(f"username {username}", 100, timedelta(hours=1))
        self.counted = []

    def count(self):
        """Count this attempt by every limit that applies to it.

        Raises TooManyRequests, and counts nothing, if one of them is reached.
        """
        # The address comes first: once it has reached its limit, it adds no more documents.
        if not self.has_fresh_token:
            self.count_by(self.by_address)
        counter = self.count_by(self.by_username_and_address)
        # With the limit of the username, an attacker could lock the owner out. So it does not apply
        # to a client with a fresh token, nor at an address that the owner has logged in from.
        if not self.has_fresh_token and not is_own_address(counter):
            self.count_by(self.by_username)

    def count_by(self, limit):
        """Count this attempt by one limit, and return its document. Raises TooManyRequests."""
        try:
            counter = count(limit)
        except TooManyRequests:
            self.undo()
            raise
        self.counted.append(limit)
        return counter

    def undo(self):
        """Remove this attempt from all counters, because no password is verified for it."""
        for limit in self.counted:
            db.rate_limits().update_one({"_id": limit.key}, ONE_ATTEMPT_LESS)

    def reset(self):
        """Reset the counters of the username, because the password was right.

        The counter of the address loses this attempt and keeps all others. Otherwise an attacker
        could reset it at any time, with a login to an account that the attacker owns.
        """
        now = datetime.now(timezone.utc)
        own = {"attempts": [], "last_login": now, "expires_at": now + OWN_ADDRESS}
        # The list holds only updates, because PyMongo sends such a list to MongoDB as one command.
        updates = [
            UpdateOne({"_id": self.by_username_and_address.key}, {"$set": own}, upsert=True),
            UpdateOne({"_id": self.by_username.key}, {"$set": {"attempts": []}}),
        ]
        if self.by_address in self.counted:
            updates.append(UpdateOne({"_id": self.by_address.key}, ONE_ATTEMPT_LESS))
        db.rate_limits().bulk_write(updates)


def is_own_address(counter):
    """Return whether the user has logged in from the counter's address within the last 30 days."""
    last_login = counter.get("last_login")
    if last_login is None:
        return False
    # PyMongo returns UTC in a datetime without a time zone.
    age = datetime.now(timezone.utc) - last_login.replace(tzinfo=timezone.utc)
    return age < OWN_ADDRESS


def forget_own_addresses(username):
    """Delete which addresses a user has logged in from, because the user is being deleted.

    The next user with this name may be another person.
    """
    db.rate_limits().delete_many({"_id": {"$regex": f"^username {re.escape(username)} address "}})


def count(limit):
    """Add an attempt to the document of `limit`, and return the document.

    Raises TooManyRequests, and adds nothing, if the limit is reached. This is one atomic operation:
    MongoDB lets no other operation change the document between its steps.
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
    # Step 3: if so, append it.
    appended = {"$cond": ["$admitted", {"$concatArrays": ["$attempts", [now]]}, "$attempts"]}
    # Keep the document for as long as its newest time or its `last_login` counts.
    expires_at = {"$max": ["$expires_at", now + limit.window]}
    counter = db.rate_limits().find_one_and_update(
        {"_id": limit.key},
        [
            {"$set": {"attempts": recent}},
            {"$set": {"admitted": has_room}},
            {"$set": {"attempts": appended, "expires_at": expires_at}},
        ],
        upsert=True,
        return_document=ReturnDocument.AFTER,
    )
    if not counter["admitted"]:
        reject(limit, oldest=counter["attempts"][0])
    return counter


def reject(limit, oldest):
    """Raise TooManyRequests. There is room again when the `oldest` attempt leaves the window."""
    ends_at = oldest.replace(tzinfo=timezone.utc) + limit.window
    seconds = (ends_at - datetime.now(timezone.utc)).total_seconds()
    raise TooManyRequests(retry_after=max(1, math.ceil(seconds)))
