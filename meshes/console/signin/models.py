"""What is kept of an operator's sign-in beside Django's user. No secret stands here but sealed, or as a digest."""

from datetime import timedelta

from django.conf import settings
from django.db import models
from django.db.models.functions import Now
from django_otp.models import Device


class Authenticator(Device):  # type: ignore[misc]  # the library has no types
    """The app of one user that shows time-based codes (RFC 6238). `confirmed` once a code of it was given."""

    secret = models.TextField()
    """The shared secret, sealed by `factors.seal_secret`."""
    key_id = models.CharField(max_length=16)
    """Which of `FERNET_KEYS` has sealed it."""
    last_step = models.BigIntegerField(default=0)
    """The time step of the last code that was taken: no code counts twice, nor one before it."""
    added_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "operator_authenticators"
        constraints = [models.UniqueConstraint(fields=["user"], name="one_authenticator_of_a_user")]


class RecoveryCode(models.Model):
    """A code that stands for the authenticator once; its row goes when it is used."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    digest = models.BinaryField(max_length=32)
    """SHA-256 of 160 random bits: nothing that could be guessed from it."""

    class Meta:
        db_table = "operator_recovery_codes"
        constraints = [models.UniqueConstraint(fields=["user", "digest"], name="recovery_codes_differ")]

    def __str__(self) -> str:
        return f"recovery code of {self.user}"


class FirstPassword(models.Model):
    """The user's present password was chosen by somebody else, or by `make up`; the row goes when it is changed."""

    class Origin(models.TextChoices):
        SUPERUSER = "superuser"
        STACK = "stack"

    user = models.OneToOneField(settings.AUTH_USER_MODEL, primary_key=True, on_delete=models.CASCADE)
    origin = models.CharField(max_length=10, choices=Origin.choices)
    made_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "operator_first_passwords"

    def __str__(self) -> str:
        return f"first password of {self.user}"


class SessionManager(models.Manager["OperatorSession"]):
    def live(self) -> "models.QuerySet[OperatorSession]":
        """Those that are neither idle for too long nor too old. The limits are those of today."""
        idle, most = (
            timedelta(seconds=settings.MESHES_SESSION_IDLE_SECONDS),
            timedelta(seconds=settings.MESHES_SESSION_SECONDS),
        )
        return self.filter(seen_at__gt=Now() - idle, started_at__gt=Now() - most)

    def end(self, **whose: object) -> int:
        """Delete sessions; how many there were. Whoever has the cookie of one is asked to sign in."""
        return self.filter(**whose).delete()[0]


class OperatorSession(models.Model):
    """A session of the admin, under a hash of the key that its cookie holds. Without a user until all factors came."""

    session_key = models.CharField(max_length=40, primary_key=True)
    session_data = models.TextField()
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.CASCADE)
    started_at = models.DateTimeField(db_default=Now())
    seen_at = models.DateTimeField(db_default=Now())
    address = models.CharField(max_length=45, blank=True)
    browser = models.CharField(max_length=300, blank=True)

    objects = SessionManager()

    class Meta:
        db_table = "operator_sessions"
        verbose_name = "session"

    def __str__(self) -> str:
        return f"{self.user or 'nobody yet'}, since {self.started_at:%Y-%m-%d %H:%M}"
