"""gunicorn for the service, the same on every host; what differs is in each host's environment."""

from poolguard.gunicorn import *  # noqa: F403 - the hooks, by the names gunicorn looks for

workers = 4
threads = 8

# gunicorn's default, written down since the unit, the pods and the containers beside this file must
# allow more: a worker gets so many seconds to finish its requests, and is killed after that.
graceful_timeout = 30
