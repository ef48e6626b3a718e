"""A bound on the work that one evaluation of a user's rule may cause."""


class OutOfWorkError(Exception):
    """The evaluation asked for more steps than it was given."""


class Meter:
    """Counts steps down. A step takes about 0.1 µs: one value looked at, a few characters searched."""

    __slots__ = ("left",)

    def __init__(self, steps: int) -> None:
        self.left = steps

    def charge(self, steps: int) -> None:
        """Pay before the work is done. Raises OutOfWorkError when too little is left."""
        self.left -= steps
        if self.left < 0:
            raise OutOfWorkError
