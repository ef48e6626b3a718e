"""The baseline's API: one event, many events, an endpoint."""

import json
import secrets
from typing import Any

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.urls import path

from bench.classic.models import Endpoint, Event
from bench.classic.tasks import route

KEY = "Bearer bench"


def events(request: HttpRequest) -> JsonResponse:
    if request.headers.get("authorization") != KEY:
        return JsonResponse({}, status=401)
    event = _event(json.loads(request.body))
    with transaction.atomic():
        event.save(force_insert=True)
        transaction.on_commit(lambda: route.delay(str(event.pk)))
    return JsonResponse({"id": event.pk}, status=202)


def bulk(request: HttpRequest) -> JsonResponse:
    if request.headers.get("authorization") != KEY:
        return JsonResponse({}, status=401)
    made = [_event(document) for document in json.loads(request.body)["events"]]
    Event.objects.bulk_create(made)
    for event in made:
        route.delay(str(event.pk))
    return JsonResponse({"ids": [event.pk for event in made]}, status=202)


def endpoints(request: HttpRequest) -> JsonResponse:
    document = json.loads(request.body)
    if request.method == "DELETE":
        Endpoint.objects.filter(workspace=document["workspace"]).delete()
        return JsonResponse({})
    made = Endpoint.objects.create(
        workspace=document["workspace"], event="*", url=document["url"], secret=secrets.token_hex(32)
    )
    return JsonResponse({"id": made.pk}, status=201)


def _event(document: dict[str, Any]) -> Event:
    return Event(workspace=document["workspace"], type=document["event"], payload=document["payload"])


urlpatterns = [
    path("api/v1/events", events),
    path("api/v1/events/bulk", bulk),
    path("api/v1/endpoints", endpoints),
]
