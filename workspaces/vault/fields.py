"""The column of a sealed document."""

from typing import Any

from fernet_fields import EncryptedTextField


class SealedTextField(EncryptedTextField):  # type: ignore[misc]  # the library has no types
    """Text is encrypted by the library, as with any field of it; bytes are a token already, and are kept as they are.

    The library's field does not see what row it is in, so it cannot bind a document to its owner.
    """

    def get_db_prep_save(self, value: Any, connection: Any) -> Any:
        if isinstance(value, bytes):
            return connection.Database.Binary(value)
        return super().get_db_prep_save(value, connection)
