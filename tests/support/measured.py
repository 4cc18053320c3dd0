"""Saves the coverage of a worker. uWSGI imports this file where the tests are measured.

A worker ends without calling the functions that are registered with atexit, and coverage saves in
one of those. So it saves at SIGTERM, by which the servers that tests share end.
"""

import signal

import gevent
import uwsgi
from coverage import Coverage

# It sets the hook that is extended here.
import run  # noqa: F401

prepare_worker = uwsgi.post_fork_hook


def prepare_and_measure():
    """Prepare a worker as in production, and save what it has executed at SIGTERM."""
    prepare_worker()
    gevent.spawn(save_at_sigterm)


def save_at_sigterm():
    """Extend the handler of SIGTERM, which `prepare_worker` has set."""
    end_gracefully = signal.getsignal(signal.SIGTERM)

    def save_and_end(*arguments):
        end_gracefully(*arguments)
        Coverage.current().save()

    signal.signal(signal.SIGTERM, save_and_end)


uwsgi.post_fork_hook = prepare_and_measure
