"""Sessions of operators, kept under a hash of the key that their cookie holds: a dump of the table logs nobody in."""

import hashlib
from typing import Any

from django.contrib.sessions.backends import db
from django.db.models.functions import Now

from workspaces import clock


def stored(session_key: str | None) -> str:
    """Under what a session is kept: 160 bits of SHA-256 in hexadecimal, which is what Django's column holds."""
    return hashlib.sha256((session_key or "").encode()).hexdigest()[:40]


class SessionStore(db.SessionStore):
    def get_expiry_date(self, **kwargs: Any) -> Any:
        return super().get_expiry_date(**{"modification": clock.database_now()} | kwargs)

    def exists(self, session_key: str) -> bool:
        return super().exists(stored(session_key))

    def create_model_instance(self, data: Any) -> Any:
        row = super().create_model_instance(data)
        row.session_key = stored(row.session_key)
        return row

    def delete(self, session_key: str | None = None) -> None:
        key = session_key or self.session_key
        if key is not None:
            super().delete(stored(key))

    def _get_session_from_db(self) -> Any:
        rows = self.model.objects.filter(session_key=stored(self.session_key), expire_date__gt=Now())
        row = rows.first()
        if row is None:
            self._session_key = None
        return row
