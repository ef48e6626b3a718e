"""A Celery application on lanes, whose one task writes down when it starts and ends. Told what to do by environment."""

import json
import os
import time
from typing import Any

from celery import Celery

from delivery.lanes.lease import report
from delivery.lanes.worker import CELERY_SETTINGS, TRANSPORT_OPTIONS, install

app = Celery("lanes-test", broker=os.environ["LANES_TEST_BROKER"], set_as_current=False)
install(app)
app.conf.update(CELERY_SETTINGS, task_ignore_result=True)
app.conf.update(json.loads(os.environ.get("LANES_TEST_SETTINGS", "{}")))
app.conf.broker_transport_options = TRANSPORT_OPTIONS | json.loads(os.environ.get("LANES_TEST_TRANSPORT", "{}"))


@app.task(name="work", bind=True)  # type: ignore[untyped-decorator]  # Celery has no types
def work(self: Any, seconds: float = 0.0, reported: float | None = None) -> None:
    write_down("start", self.request.id)
    time.sleep(seconds)
    if reported is not None:
        report(self.request.id, reported, is_failure=False)
    write_down("end", self.request.id)


def write_down(what: str, task_id: str) -> None:
    """One write to a file opened for appending: whole lines, whoever is killed."""
    file = os.open(os.environ["LANES_TEST_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{what} {task_id} {time.time()}\n".encode())
    os.close(file)
