"""What and when: events, rules, deliveries, attempts."""

from django.apps import AppConfig


class DeliveryConfig(AppConfig):
    name = "delivery"

    def ready(self) -> None:
        from delivery import checks, receivers  # noqa: F401  (registers the system checks, connects the signals)
