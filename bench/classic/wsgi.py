"""The baseline's WSGI application."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bench.classic.settings")
application = get_wsgi_application()

from bench.classic.celery import app as celery_app  # noqa: E402  (Celery reads Django's settings)

__all__ = ["application", "celery_app"]
