"""The Celery application: tasks carry ids, lanes carry tasks, PostgreSQL carries everything else."""

import os

from celery import Celery
from django.conf import settings

from delivery.lanes.options import CELERY_SETTINGS, TRANSPORT_OPTIONS
from delivery.lanes.worker import install

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "meshes.settings")

app = Celery("meshes")
install(app)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.conf.update(CELERY_SETTINGS)
app.conf.broker_transport_options = TRANSPORT_OPTIONS | {"lane_lease_seconds": settings.MESHES_LANE_LEASE_SECONDS}
app.autodiscover_tasks(["delivery"])
