"""What has been revoked: one collection for all workers and dynos, which survives restarts."""

import datetime

from flask import current_app

import db


class Blacklist:
    """A set of revoked ids, kept in MongoDB. Like Python's sets it has `add` and `isdisjoint`.

    There are two kinds of ids, and every token carries one of each: `sid`, of a session (a login),
    and `password_id`, of a password. Whoever revokes an id ends every token that carries it.
    """

    def add(self, revoked_id):
        """Revoke every token that carries this id, from now on."""
        # When all tokens with this id have expired, MongoDB deletes the entry. The last one is a
        # refresh token. The life of an access token is added for a login that is under way at this
        # moment: it makes its tokens a little later.
        lifetime = (
            current_app.config["JWT_REFRESH_TOKEN_EXPIRES"]
            + current_app.config["JWT_ACCESS_TOKEN_EXPIRES"]
        )
        expires_at = datetime.datetime.now(datetime.timezone.utc) + lifetime
        # `upsert` inserts the entry if it is not there, so that an id can be added twice.
        db.blacklist().update_one(
            {"_id": revoked_id}, {"$set": {"expires_at": expires_at}}, upsert=True
        )

    def isdisjoint(self, ids):
        """Whether none of these ids is revoked.

        Every request that carries a token asks this, and asks MongoDB. An answer kept for later
        would let a token outlive its logout.
        """
        # `distinct` answers from the index on `_id` in one step, without the cursor of a `find`: of
        # all ways to ask this it takes the least time.
        revoked = db.blacklist().distinct("_id", {"_id": {"$in": ids}})
        return not revoked


BLACKLIST = Blacklist()
