"""What and when: events, rules, deliveries, attempts."""

from django.apps import AppConfig


class DeliveryConfig(AppConfig):
    name = "delivery"
