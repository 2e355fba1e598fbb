"""Django with its ``pool`` option, which is psycopg_pool inside.

Defaults (docs.djangoproject.com/en/5.2/ref/databases, "Connection pool"): psycopg_pool's own, with
its max_size given. Django opens the pool when the first request asks for a connection.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.urls import path

from .endpoint import WORKER
from .terms import TERMS

pool: dict[str, Any] = {"max_size": TERMS.size, "max_idle": TERMS.fast(600)}
if TERMS.tuned:
    # The same pages: the options are handed on to psycopg_pool, see psycopg_settings;
    # CONN_HEALTH_CHECKS is check=.
    pool = {"min_size": TERMS.size, "max_size": TERMS.size, "num_workers": 10, "timeout": 5.0}

place = TERMS.place()
settings.configure(
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="of no consequence",
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": place["host"],
            "PORT": place["port"],
            "USER": place["user"],
            "PASSWORD": place["password"],
            "NAME": place["database"],
            "CONN_HEALTH_CHECKS": TERMS.tuned,
            "OPTIONS": {"pool": pool},
        }
    },
)


def index(_: HttpRequest) -> HttpResponse:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(%s)", [TERMS.query])
    return health(_)


def health(_: HttpRequest) -> HttpResponse:
    return HttpResponse("ok\n", headers={"Content-Length": "3", "X-Worker": WORKER})


urlpatterns = [path("", index), path("health", health)]

app = get_wsgi_application()
if TERMS.tuned:
    connection.ensure_connection()  # opens the pool, whose other connections open meanwhile
    connection.close()
