"""gunicorn's configuration for the ordinary contender."""

workers = 1
worker_class = "gthread"
threads = 80
loglevel = "warning"
control_socket_disable = True
