"""The demo: the whole main job on servers of its own, through the public API only, with its claims checked."""
