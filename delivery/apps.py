"""What and when: events, rules, deliveries, attempts."""

from django.apps import AppConfig


class DeliveryConfig(AppConfig):
    name = "delivery"

    def ready(self) -> None:
        from delivery import receivers  # noqa: F401  (connects the signals)
