"""What and when: events, rules, deliveries, attempts."""

import gc

from django.apps import AppConfig


class DeliveryConfig(AppConfig):
    name = "delivery"

    def ready(self) -> None:
        from delivery.dispatch import hold, sessions  # noqa: F401  (connects the signals, registers the system checks)


def warm_up() -> None:
    """Load what is otherwise loaded on first use, so that no request and no delivery waits for it, and spare the
    garbage collector what lives as long as the process: a full collection of it stops every thread for a tenth of a
    second. Tell of keys that are missing."""
    from delivery.lanes import brokers  # needs the applications, which are loaded later
    from workspaces.vault import stored_keys

    brokers.prepare()
    stored_keys.tell_unopenable()
    gc.collect()
    gc.freeze()
