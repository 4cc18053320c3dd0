"""What uWSGI loads in production: `app`. Ends the process with one line if a setting is wrong."""

import sys

from app import app
from resources import settings

settings.require_production()

try:
    from resources.uwsgi_worker import PlainRequests
except ModuleNotFoundError:
    sys.exit("uWSGI loads run.py: start it with `uwsgi uwsgi.ini`. Without it: `python app.py`")

# Every connection comes from Heroku's router, which says in a header where the client is. Without
# a router, a client could write any address there: see resources/rate_limits.py.
app.config["BEHIND_ROUTER"] = True

# Flask calls this function for each request, and PEP 3333 calls such a wrapper middleware.
app.wsgi_app = PlainRequests(app.wsgi_app, app.config["MAX_CONTENT_LENGTH"])
