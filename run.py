"""What uWSGI loads in production: `app`. Ends the process with one line if a setting is missing."""

import os
import re
import sys

# uWSGI puts this module into the processes that it runs; pip cannot install it.
import uwsgi
from bson import ObjectId

# RFC 7518, 3.2: HS256 requires a key of at least 256 bits, which is 32 bytes.
if len(os.environ.get("JWT_SECRET_KEY", "").strip().encode()) < 32:
    sys.exit(
        "JWT_SECRET_KEY must be set, to at least 32 bytes:"
        " python -c 'import secrets; print(secrets.token_hex())'"
    )

if not os.environ.get("MONGODB_URI", "").strip():
    sys.exit("MONGODB_URI must be set, for example to mongodb+srv://USER:PASSWORD@HOST/todolistapp")

# uWSGI does not check WEB_CONCURRENCY. If it is not a number, uWSGI listens and never answers.
if not re.fullmatch("[1-9][0-9]{0,2}", os.environ.get("WEB_CONCURRENCY", "2")):
    sys.exit("WEB_CONCURRENCY must be a number from 1 to 999, or not be set at all")

# Only now, because importing the app reads the environment as well.
from app import app  # noqa: E402

# Every connection comes from Heroku's router, which says in a header where the client is. Without
# a router, a client could write any address there: see resources/rate_limits.py.
app.config["BEHIND_ROUTER"] = True

# Every id has a part that PyMongo draws at random, once for each process. Several threads of a new
# worker can draw it at the same time. One of them can then use the part that all workers have
# copied from the master, and two workers create equal ids. Therefore uWSGI calls `ObjectId` in each
# worker before its threads start: this call draws the part.
uwsgi.post_fork_hook = ObjectId
