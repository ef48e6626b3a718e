"""Whose sessions end at once: a user's with a new password, without the right to sign in, or with fewer rights."""

from typing import Any

from django.contrib.auth.models import Group, User
from django.contrib.auth.password_validation import validate_password
from django.db.models.signals import m2m_changed, post_save, pre_delete, pre_save

from meshes.console.signin.models import FirstPassword, OperatorSession

FLAGS = ("is_active", "is_staff", "is_superuser")


def connect() -> None:
    pre_save.connect(_look_at_password, User, dispatch_uid="signin.password")
    pre_save.connect(_note_lost_flags, User, dispatch_uid="signin.flags")
    post_save.connect(_follow_user, User, dispatch_uid="signin.user")
    pre_delete.connect(_follow_group, Group, dispatch_uid="signin.group")
    for through in (User.groups.through, User.user_permissions.through, Group.permissions.through):
        m2m_changed.connect(_follow_rights, through, dispatch_uid=f"signin.{through.__name__}")


def _look_at_password(instance: User, raw: bool = False, **_: Any) -> None:
    """Raises ValidationError for a password that was set and may not be one, on whichever path."""
    password = instance._password  # type: ignore[attr-defined]  # Django's own: what was set, and not saved yet
    if password is not None and not raw:
        validate_password(password, instance)


def _note_lost_flags(instance: User, **_: Any) -> None:
    before = User.objects.filter(pk=instance.pk).values(*FLAGS).first() or {}
    instance._loses_flags = any(had and not getattr(instance, flag) for flag, had in before.items())  # type: ignore[attr-defined]


def _follow_user(instance: User, **_: Any) -> None:
    """A hash that Django renews at a sign-in is no new password: `_password` is the one that was set."""
    is_new_password = instance._password is not None  # type: ignore[attr-defined]  # Django's own
    if is_new_password:
        FirstPassword.objects.filter(user=instance).delete()
    if is_new_password or instance._loses_flags:  # type: ignore[attr-defined]
        OperatorSession.objects.end(user=instance)


def _follow_group(instance: Group, **_: Any) -> None:
    OperatorSession.objects.end(user__groups=instance)


def _follow_rights(instance: Any, action: str, reverse: bool, pk_set: set[Any] | None, **options: Any) -> None:
    """Rights that were given end nothing; `pk_set` is None where all of them are taken."""
    if action not in {"post_remove", "pre_clear"}:
        return
    if isinstance(instance, User):
        whose: dict[str, Any] = {"user": instance}
    elif isinstance(instance, Group):
        is_of_users = options["model"] is User
        whose = {"user__in": pk_set} if is_of_users and pk_set is not None else {"user__groups": instance}
    elif options["model"] is User:  # a permission, taken from users
        whose = {"user__in": pk_set} if pk_set is not None else {"user__user_permissions": instance}
    else:  # a permission, taken from groups
        whose = {"user__groups__in": pk_set} if pk_set is not None else {"user__groups__permissions": instance}
    OperatorSession.objects.end(**whose)
