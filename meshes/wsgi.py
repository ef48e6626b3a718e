"""The WSGI application that gunicorn serves."""

import os

from django.core.wsgi import get_wsgi_application
from django.urls import get_resolver

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "meshes.settings")
application = get_wsgi_application()

from delivery.warm import warm_up  # noqa: E402  (needs the applications that the line above loads)

get_resolver().url_patterns  # noqa: B018  (imports every view)
warm_up()  # before gunicorn forks: it opens no connection and starts no thread
