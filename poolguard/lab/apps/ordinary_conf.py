"""gunicorn's configuration for the ordinary contender."""

workers = 1
worker_class = "gthread"
threads = 64
loglevel = "warning"
control_socket_disable = True
