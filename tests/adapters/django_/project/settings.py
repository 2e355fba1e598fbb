"""The project's settings. ``TEST_DATABASES`` is ``DATABASES`` as JSON."""

from __future__ import annotations

import json
import os

import poolguard
from tests.support import until

if "TEST_WARM_FIRST" in os.environ:  # the hooks have opened a guard before this is imported
    until(lambda: poolguard.guard().ready)
DATABASES = json.loads(os.environ["TEST_DATABASES"])
DEBUG = "TEST_DEBUG" in os.environ
SECRET_KEY = "not one"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["django.contrib.staticfiles", "tests.adapters.django_.project"]
ROOT_URLCONF = "tests.adapters.django_.project.urls"
STATIC_URL = "static/"
STATIC_ROOT = os.environ.get("TEST_STATIC")
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
DATABASE_ROUTERS = json.loads(os.environ.get("TEST_ROUTERS", "[]"))
LOGGING = {
    "version": 1,
    "disable_existing_loggers": True,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"django.request": {"handlers": ["console"], "level": "INFO"}},
}
