"""Guessing: how many wrong passwords are looked at, by name and by the client's address.

The counts are in MongoDB, since a count in memory would be one count for each worker process and
each dyno. For each name, each address and each pair of the two there is a document with the times
of the last tries:

    {"_id": "name alice", "tries": [<time>, <time>], "admitted": true, "expires_at": <time>}

A try is counted before the password is looked at, and taken back if the password was right. If it
were counted afterwards, a hundred simultaneous tries would all pass before the first one counts.
"""

import math
import time
from datetime import datetime, timedelta, timezone
from ipaddress import IPv6Network, ip_address
from typing import NamedTuple

from flask import request
from pymongo import DeleteOne, ReturnDocument, UpdateOne
from werkzeug.exceptions import TooManyRequests

import db
from resources.passwords import hold_back


class Limit(NamedTuple):
    """How many tries are looked at within how long, and the `_id` of the document for them."""

    key: str
    most: int
    within: timedelta


# The limits that this process has seen reached: {key: (ask MongoDB again at, reached until)}, both
# by time.time(). Somebody who goes on guessing thousands of times a second then costs MongoDB five
# questions a second. For longer than a moment this process must not believe it: the owner may have
# logged in by another one, which forgets what was counted for the name.
_reached = {}
ASK_AGAIN_AFTER = 0.2


def client_address():
    """Where the request comes from, as far as guessing is concerned."""
    try:
        address = ip_address(request.remote_addr)
    except ValueError:
        # Only a client that gets past Heroku's router can send such a thing. All of them count as
        # one.
        return "unknown"
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    # A provider gives each customer at least a /64, 2 to the power of 64 addresses. If each of them
    # counted for itself, one customer could guess for ever.
    return str(IPv6Network((int(address), 64), strict=False))


class Guess:
    """One try at somebody's password."""

    def __init__(self, username):
        """A try at the password of `username` by whoever sends this request."""
        address = client_address()
        # Few for a name from one address, so that a guesser soon stops, and the owner, who comes
        # from another address, does not.
        self.by_both = Limit(f"name {username} address {address}", 10, timedelta(minutes=15))
        # NIST 800-63B-4, 3.2.2, allows 100 for one account, from wherever they come. Here it is 100
        # an hour: when a guesser stops, the owner gets in again an hour later at the latest.
        self.by_name = Limit(f"name {username}", 100, timedelta(hours=1))
        # Against somebody who tries one password with many names.
        self.by_address = Limit(f"address {address}", 100, timedelta(minutes=15))
        # The address comes first: once it is refused, its tries make no more documents.
        self.limits = [self.by_address, self.by_both, self.by_name]
        self.counted = []

    def refuse_if_known(self):
        """Raise TooManyRequests if this process knows without MongoDB that a limit is reached."""
        now = time.time()
        for limit in self.limits:
            ask_again_at, until = _reached.get(limit.key, (0, 0))
            if now < ask_again_at:
                hold_back()
                raise TooManyRequests(retry_after=math.ceil(until - now))

    def count(self):
        """Count this try by all three limits. Raises TooManyRequests, and counts nothing, if one of
        them is reached."""
        for limit in self.limits:
            document = count_try(limit)
            if not document["admitted"]:
                self.take_back()
                refuse(limit, oldest_try=document["tries"][0])
            self.counted.append(limit)

    def take_back(self):
        """Count this try no longer: nobody has looked at the password."""
        for limit in self.counted:
            db.guesses().update_one({"_id": limit.key}, ONE_TRY_LESS)

    def forget(self):
        """The password was right: forget the tries for the name, and this one for the address.

        All others for the address stay. Otherwise a guesser could start afresh at any time, by
        logging in to an account of their own.
        """
        db.guesses().bulk_write(
            [
                DeleteOne({"_id": self.by_both.key}),
                DeleteOne({"_id": self.by_name.key}),
                UpdateOne({"_id": self.by_address.key}, ONE_TRY_LESS),
            ]
        )


# Removes the newest time. It may be the time of another try, made in the same moment; what matters
# is that there is one less.
ONE_TRY_LESS = {"$pop": {"tries": 1}}


def count_try(limit):
    """Add a try to a limit's document, unless the limit is reached; return the document.

    One atomic operation: MongoDB lets no other one change the document between its steps. The
    document's `admitted` says whether the try was added.
    """
    now = datetime.now(timezone.utc)
    # Step 1: drop the times that are too old to count. (A document that is new has none.)
    recent = {
        "$filter": {
            "input": {"$ifNull": ["$tries", []]},
            "cond": {"$gt": ["$$this", now - limit.within]},
        }
    }
    # Step 2: is there room for one more?
    has_room = {"$lt": [{"$size": "$tries"}, limit.most]}
    # Step 3: if so, add it at the end.
    one_more = {"$cond": ["$admitted", {"$concatArrays": ["$tries", [now]]}, "$tries"]}
    return db.guesses().find_one_and_update(
        {"_id": limit.key},
        [
            {"$set": {"tries": recent}},
            {"$set": {"admitted": has_room}},
            # Each try puts the deletion off, and MongoDB is up to a minute late with it. So a
            # document can hold times that are too old, and step 1 is needed.
            {"$set": {"tries": one_more, "expires_at": now + limit.within}},
        ],
        upsert=True,
        return_document=ReturnDocument.AFTER,
    )


def refuse(limit, oldest_try):
    """Raise TooManyRequests, and remember for a moment that this limit is reached."""
    now = time.time()
    # The limit has room again when the oldest try is too old to count. PyMongo gives UTC without
    # saying so.
    until = (oldest_try.replace(tzinfo=timezone.utc) + limit.within).timestamp()
    if len(_reached) > 10_000:
        # Nobody should be able to fill the memory by guessing at ever new names.
        _reached.clear()
    _reached[limit.key] = (min(now + ASK_AGAIN_AFTER, until), until)
    raise TooManyRequests(retry_after=max(1, math.ceil(until - now)))
