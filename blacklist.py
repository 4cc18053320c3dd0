"""What has been revoked. One collection for all worker processes and dynos, which survives restarts."""

import datetime

from flask import current_app

import db


class Blacklist:
    """Reads like a set of ids: of sessions (`sid`), users (`sub`) and single tokens (`jti`). `in` takes several."""

    def add(self, revoked_id):
        """Revoke every token that carries this id, from now on."""
        # At `expires_at` the last token is past its `exp`: an access token that was refreshed at the very end.
        lifetime = (
            current_app.config["JWT_REFRESH_TOKEN_EXPIRES"]
            + current_app.config["JWT_ACCESS_TOKEN_EXPIRES"]
        )
        expires_at = datetime.datetime.now(datetime.UTC) + lifetime
        db.blacklist.update_one(
            {"_id": revoked_id}, {"$set": {"expires_at": expires_at}}, upsert=True
        )

    def __contains__(self, ids):
        """Whether any of these ids is revoked. Asked on every request that carries a token: an answer kept for later
        would let a token outlive its logout."""
        return bool(db.blacklist.distinct("_id", {"_id": {"$in": ids}}))


BLACKLIST = Blacklist()
