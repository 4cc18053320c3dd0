"""Saves the coverage of a worker. uWSGI imports this file where the tests are measured.

A worker ends without calling the functions that are registered with atexit, and coverage saves in
one of those.
"""

import signal

import gevent
import uwsgi
from coverage import Coverage

# It sets the hook that is extended here.
import run  # noqa: F401

prepare_worker = uwsgi.post_fork_hook


def prepare_and_measure():
    """Prepare a worker as in production, and save what it executes, again and again."""
    prepare_worker()
    gevent.spawn(save_again_and_again)


def save_again_and_again():
    """Save twice a second, because most tests kill their server, and at SIGTERM."""
    end_gracefully = signal.getsignal(signal.SIGTERM)

    def save_and_end(*arguments):
        end_gracefully(*arguments)
        Coverage.current().save()

    signal.signal(signal.SIGTERM, save_and_end)
    while True:
        gevent.sleep(0.5)
        Coverage.current().save()


uwsgi.post_fork_hook = prepare_and_measure
