"""How many SQL statements a block of code sends, over all threads and connections of the process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from django.db.backends.utils import CursorWrapper


class Counted(list[str]):
    """The statements, in order."""


@contextmanager
def counted_statements() -> Iterator[Counted]:
    """BEGIN, COMMIT and the like are not counted: Django sends them past the cursor."""
    counted, lock, execute = Counted(), threading.Lock(), CursorWrapper.execute

    def count(self: CursorWrapper, sql: Any, params: Any = None) -> Any:
        with lock:
            counted.append(str(sql))
        return execute(self, sql, params)

    with patch.object(CursorWrapper, "execute", count):
        yield counted
