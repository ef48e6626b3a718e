"""Pages for operators: events with their whole timeline, deliveries, dead letters, rules, replays, and the rest."""

from delivery.admin import deliveries, events, panels, records, rules

__all__ = ["deliveries", "events", "panels", "records", "rules"]
