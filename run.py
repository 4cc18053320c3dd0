"""What uWSGI loads in production. Ends the process with one line where the environment is not configured."""

import os
import sys

if (
    len(os.environ.get("JWT_SECRET_KEY", "").encode()) < 32
):  # RFC 7518, 3.2: HS256 wants a key of 256 bits or more.
    sys.exit(
        "JWT_SECRET_KEY must be set, to at least 32 bytes: python -c 'import secrets; print(secrets.token_hex())'"
    )
if not os.environ.get("MONGODB_URI"):
    sys.exit(
        "MONGODB_URI must be set, for instance to mongodb+srv://USER:PASSWORD@HOST/todolistapp"
    )

if os.environ.get("WEB_CONCURRENCY", "2") not in map(str, range(1, 1000)):
    # uWSGI takes it as it is: with nonsense in it, it would listen and never answer.
    sys.exit("WEB_CONCURRENCY must be a number from 1 to 999, or not be set at all")

from app import app  # noqa: F401. For uWSGI. Only now, since importing it reads the environment.
