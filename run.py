"""What uWSGI loads in production: `app`. Ends the process with one line if a setting is missing."""

import os
import re
import sys

from werkzeug.middleware.proxy_fix import ProxyFix

# RFC 7518, 3.2: HS256 wants a key of at least 256 bits, which is 32 bytes.
if len(os.environ.get("JWT_SECRET_KEY", "").encode()) < 32:
    sys.exit(
        "JWT_SECRET_KEY must be set, to at least 32 bytes:"
        " python -c 'import secrets; print(secrets.token_hex())'"
    )

if not os.environ.get("MONGODB_URI"):
    sys.exit(
        "MONGODB_URI must be set, for instance to mongodb+srv://USER:PASSWORD@HOST/todolistapp"
    )

# uWSGI takes this as it is: if it were no number, uWSGI would listen and never answer.
if not re.fullmatch("[1-9][0-9]{0,2}", os.environ.get("WEB_CONCURRENCY", "2")):
    sys.exit("WEB_CONCURRENCY must be a number from 1 to 999, or not be set at all")

# Only now, since importing the app reads the environment, too.
from app import app  # noqa: E402

# Behind Heroku's router every connection comes from the router. It writes the client's address at
# the end of the header X-Forwarded-For; this makes it `request.remote_addr`. What a client itself
# writes into the header stands before that, and is not looked at.
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=0)
