"""The baseline's Celery: the stock Redis transport, the one default queue."""

import os

from celery import Celery
from django.conf import settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bench.classic.settings")

app = Celery("classic")
app.conf.update(
    broker_url=settings.REDIS_URL,
    task_ignore_result=True,
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    broker_transport_options={"max_connections": 512},
    CELERY_DB_REUSE_MAX=1_000_000_000,  # else Celery opens a database connection for each task, at 7 ms of CPU
)
app.autodiscover_tasks(["bench.classic"])
