"""gunicorn for the service, the same on every host; what differs is in each host's environment."""

from poolguard.gunicorn import *  # noqa: F403 - the hooks, by the names gunicorn looks for

workers = 4
threads = 8

# gunicorn's default, written down since the unit, the pods and the containers beside this file must
# allow more: a worker gets so many seconds to finish its requests, and is killed after that.
graceful_timeout = 30

# gunicorn 25.1 and later make a control socket in the home directory, and would log an error in a
# container whose file system is read-only.
control_socket_disable = True
