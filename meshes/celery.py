"""The Celery application: tasks carry ids, lanes carry tasks, PostgreSQL carries everything else."""

import os
import sys
from typing import Any

from celery import Celery
from celery.signals import setup_logging, worker_init, worker_ready
from django.conf import settings

from delivery.lanes.worker import CELERY_SETTINGS, TRANSPORT_OPTIONS, install
from meshes import answers
from meshes.environment import exit_where_misconfigured, refuse_unsound_keys

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "meshes.settings")

with exit_where_misconfigured():
    settings.CELERY_BROKER_URL  # noqa: B018  (loads the settings)

SWITCH_SECONDS = 0.0005
"""How long a thread that reckons keeps the others waiting. By Python's default of 5 ms, an event that was routed beside
a heavy one waited for it ten times over."""

app = Celery("meshes")
install(app)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.conf.update(CELERY_SETTINGS)
app.conf.broker_transport_options = TRANSPORT_OPTIONS | {"lane_lease_seconds": settings.MESHES_LANE_LEASE_SECONDS}
app.autodiscover_tasks(["delivery"])


@setup_logging.connect  # type: ignore[untyped-decorator]  # Celery has no types
def _keep_logging(**kwargs: Any) -> None:
    """Where this is connected Celery leaves logging as the settings have it, its loggers of tasks too."""


@worker_init.connect  # type: ignore[untyped-decorator]  # Celery has no types
def _begin_session(**kwargs: Any) -> None:
    from delivery import tasks
    from delivery.dispatch import sessions  # as below

    with exit_where_misconfigured():
        refuse_unsound_keys()
    answers.install()
    sessions.Keeper(tasks.WORKER).start()


@worker_ready.connect  # type: ignore[untyped-decorator]  # Celery has no types
def _warm_up(**kwargs: Any) -> None:
    sys.setswitchinterval(SWITCH_SECONDS)
    from delivery.apps import warm_up  # needs the applications, which are not loaded yet where this module is imported

    warm_up()
