"""The WSGI application that gunicorn serves."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "meshes.settings")
application = get_wsgi_application()

from delivery.warm import warm_up  # noqa: E402  (needs the applications that the line above loads)

warm_up()
