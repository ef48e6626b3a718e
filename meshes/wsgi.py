"""The WSGI application that gunicorn serves."""

import os

from django.core.wsgi import get_wsgi_application
from django.urls import get_resolver

from meshes.environment import exit_where_misconfigured, refuse_unsound_keys

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "meshes.settings")
with exit_where_misconfigured(code=3):  # at which gunicorn gives up, and starts no worker again and again
    refuse_unsound_keys()
    application = get_wsgi_application()

from delivery.apps import warm_up
from meshes.logs import adopt

adopt("gunicorn.error", "gunicorn.access")

get_resolver().url_patterns  # noqa: B018  (imports every view)
warm_up()  # before gunicorn forks: it leaves no connection open and starts no thread
