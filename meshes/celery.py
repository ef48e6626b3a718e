"""The Celery application: tasks carry ids, lanes carry tasks, PostgreSQL carries everything else."""

import os

from celery import Celery

from delivery.lanes.options import CELERY_SETTINGS
from delivery.lanes.worker import install

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "meshes.settings")

app = Celery("meshes")
install(app)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.conf.update(CELERY_SETTINGS)
app.autodiscover_tasks(["delivery"])
