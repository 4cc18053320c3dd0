"""The revoked tokens. All workers and dynos know them from MongoDB, even after a restart.

A user's document lists the user's open sessions. The blacklist is every token whose session is not,
or no longer, in the list of its user. A list of the revoked tokens would be a document beside the
user's, and one atomic operation could not change both.
"""

from bson import ObjectId

import db


class Blacklist:
    """The set of all revoked tokens. A token is given by its claims."""

    def __contains__(self, claims):
        """Return whether the token with these claims is revoked: `claims in BLACKLIST`.

        Every request with a token queries MongoDB here. If a process kept the result for later, the
        token would still be valid there after its logout.
        """
        # By `_id` alone, which is the fastest query that MongoDB has. The list is short.
        user = db.users().find_one({"_id": ObjectId(claims["sub"])}, projection=["sessions"])
        return user is None or claims["sid"] not in (user.get("sessions") or [])

    def add(self, claims):
        """Revoke the token with these claims, and with it all other tokens of its session."""
        # `$pull` removes a value from a list.
        db.users().update_one(
            {"_id": ObjectId(claims["sub"])}, {"$pull": {"sessions": claims["sid"]}}
        )


BLACKLIST = Blacklist()
