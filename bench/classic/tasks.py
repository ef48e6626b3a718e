"""The baseline's two tasks: route an event, deliver to one endpoint."""

import base64
import hashlib
import hmac
import json
import threading
import time

import requests
from celery import Task, shared_task

from bench.classic.models import Attempt, Delivery, Endpoint, Event

RETRY_SECONDS = (5, 300, 1800, 7200, 18000, 36000, 36000)
TIMEOUT_SECONDS = 15
_of_thread = threading.local()


@shared_task
def route(event_id: str) -> None:
    event = Event.objects.get(pk=event_id)
    for endpoint in Endpoint.objects.filter(workspace=event.workspace):
        if endpoint.event in ("*", event.type):
            delivery = Delivery.objects.create(event=event, endpoint=endpoint)
            deliver.delay(str(delivery.pk))


@shared_task(bind=True, max_retries=len(RETRY_SECONDS))
def deliver(self: Task, delivery_id: str) -> None:
    delivery = Delivery.objects.select_related("event", "endpoint").get(pk=delivery_id)
    if delivery.status == "succeeded":
        return
    body = json.dumps(delivery.event.payload)
    began = time.monotonic()
    status, error = _send(delivery, body)
    Attempt.objects.create(
        delivery=delivery,
        number=self.request.retries + 1,
        status_code=status,
        error=error,
        duration_ms=int(1000 * (time.monotonic() - began)),
    )
    if status is not None and status < 300:
        delivery.status = "succeeded"
    elif self.request.retries >= len(RETRY_SECONDS):
        delivery.status = "failed"
    delivery.save(update_fields=["status"])
    if delivery.status == "pending":
        raise self.retry(countdown=RETRY_SECONDS[self.request.retries])


def _send(delivery: Delivery, body: str) -> tuple[int | None, str]:
    moment = str(int(time.time()))
    signed = f"{delivery.pk}.{moment}.{body}".encode()
    signature = base64.b64encode(hmac.digest(delivery.endpoint.secret.encode(), signed, hashlib.sha256)).decode()
    headers = {
        "Content-Type": "application/json",
        "webhook-id": str(delivery.pk),
        "webhook-timestamp": moment,
        "webhook-signature": f"v1,{signature}",
    }
    try:
        answer = _session().post(delivery.endpoint.url, data=body, headers=headers, timeout=TIMEOUT_SECONDS)
    except requests.RequestException as error:
        return None, str(error)[:500]
    return answer.status_code, ""


def _session() -> requests.Session:
    if not hasattr(_of_thread, "session"):
        _of_thread.session = requests.Session()
    session: requests.Session = _of_thread.session
    return session
