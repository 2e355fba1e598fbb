"""The contenders' applications, one file each, and the gunicorn configuration of them all."""
