"""Lanes: one queue per connection and per workspace that costs nothing while it is empty. See docs/lanes.md."""
