"""Rows of the baseline; `migrate --run-syncdb` makes the tables."""

import uuid

from django.db import models


class Endpoint(models.Model):
    workspace = models.CharField(max_length=128, db_index=True)
    event = models.CharField(max_length=128)
    url = models.TextField()
    secret = models.CharField(max_length=64)

    def __str__(self) -> str:
        return self.url


class Event(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    workspace = models.CharField(max_length=128, db_index=True)
    type = models.CharField(max_length=128)
    payload = models.JSONField()
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return str(self.id)


class Delivery(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    event = models.ForeignKey(Event, on_delete=models.CASCADE)
    endpoint = models.ForeignKey(Endpoint, on_delete=models.CASCADE)
    status = models.CharField(max_length=16, default="pending", db_index=True)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return str(self.id)


class Attempt(models.Model):
    delivery = models.ForeignKey(Delivery, on_delete=models.CASCADE)
    number = models.IntegerField()
    status_code = models.IntegerField(null=True)
    error = models.TextField(default="")
    duration_ms = models.IntegerField()
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.number}: {self.status_code}"
