"""What uWSGI loads in production. Ends the process with one line where the environment is not configured."""

import os
import sys

if len(os.environ.get("JWT_SECRET_KEY", "").encode()) < 32:  # RFC 7518, 3.2: HS256 wants a key of 256 bits or more.
    sys.exit("JWT_SECRET_KEY must be set, to at least 32 bytes: python -c 'import secrets; print(secrets.token_hex())'")
if not os.environ.get("MONGODB_URI"):
    sys.exit("MONGODB_URI must be set, for instance to mongodb+srv://USER:PASSWORD@HOST/todolistapp")

from app import app as app  # Only now, since importing it reads both.
