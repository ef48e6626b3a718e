"""A token that is good, for one attempt or call: renewed before use when it is due, and after a refusal, once.

However many need another token at the same moment, one asks for it, and the others wait for what it got.
"""

import random
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from django.db import Error, close_old_connections

from connections import origins
from connections.messages import Response
from connections.models import Connection
from connections.oauth import exchange, tokens
from connections.oauth.leases import (
    Begun,
    Busy,
    Finish,
    Lease,
    Lost,
    Need,
    Renewed,
    Standing,
    begin_refresh,
    finish_refresh,
    read_tokens,
)
from connections.oauth.troubles import NoToken, ended, unavailable, with_rest
from connections.providers.base import Provider
from workspaces.clock import Reading
from workspaces.database_faults import Fault, fault_of

WAIT_SECONDS = 10.0
"""How long one waits for a token that somebody else asks for."""
KEEP_SECONDS = 15.0
"""How long a call that somebody waits for tries to keep new tokens; with the request before it, less than a lease."""
POLL_SECONDS = 0.1
BUSY_WORDS = "Another worker is still asking for a new token."
BUSY_REST_SECONDS = 5.0
MOVED_WORDS = "The connection was moved meanwhile; the next attempt goes where it leads now."


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps that touch the database, for one connection each: called directly, or through groups."""

    begin: Callable[[Need], Begun]
    finish: Callable[[Finish], Renewed | Lost]
    read: Callable[[Need], Standing | None]
    keep_seconds: float = KEEP_SECONDS
    """How long new tokens are kept in memory while the database takes none: nobody else has them."""


DIRECT = Steps(
    begin=lambda need: begin_refresh([need])[0],
    finish=lambda finish: finish_refresh([finish])[0],
    read=lambda need: read_tokens([need])[0],
)
"""For threads with a database connection of their own."""


@dataclass(frozen=True, slots=True)
class User:
    """Who uses a connection's credentials, for what the access records say."""

    workspace_id: uuid.UUID
    connection_id: uuid.UUID
    actor: str
    delivery_id: uuid.UUID | None = None
    attempt_number: int | None = None


class Authorization:
    """The opened credentials of one attempt or call, and their version.

    `clock` is PostgreSQL's, by which tokens live. `opened` are the secrets of all that were opened meanwhile, for
    masking: an answer may quote a token that has been replaced.
    """

    def __init__(
        self,
        user: User,
        provider: Provider,
        config: Mapping[str, Any],
        version: int,
        credentials: Mapping[str, Any],
        clock: Reading,
        steps: Steps = DIRECT,
    ) -> None:
        self.version = version
        self.credentials = credentials
        self.opened = [tokens.secrets_of(credentials)]
        self._user, self._provider, self._config, self._clock, self._steps = user, provider, config, clock, steps
        self._was_refused = False

    def prepare(self, until: float) -> None:
        """Before use: renew the token when it is due. Raises NoToken where the one at hand is of no use either.

        `until` (of the monotonic clock) ends waiting and asking.
        """
        now = self._clock.now()
        if not self._can_renew or not tokens.is_due(self.credentials, now):
            return
        is_expired = tokens.is_expired(self.credentials, now)
        patience = WAIT_SECONDS if is_expired else 0.0
        try:
            self._renew(until, patience)
        except NoToken as trouble:
            if is_expired or trouble.is_final:
                raise

    def renew_after(self, response: Response, until: float) -> bool:
        """After an answer: whether it refused the token and there is another now, so that it is worth asking again.

        Only once; after a second refusal the answer stands. Raises NoToken.
        """
        if self._was_refused or not self._can_renew or not self._provider.is_unauthorized(response):
            return False
        self._was_refused = True
        self._renew(until, WAIT_SECONDS)
        return True

    @property
    def _can_renew(self) -> bool:
        return tokens.can_renew(self._provider.oauth, self._config, self.credentials)

    def _renew(self, until: float, patience: float) -> None:
        before = self.credentials.get("access_token")
        while True:
            renewed = renew(self._need(), self._steps, until, patience)
            if origins.moved(self._provider, self._config, renewed.config):
                raise NoToken(unavailable(MOVED_WORDS))
            self.version, self.credentials = renewed.version, renewed.credentials
            self.opened.append(tokens.secrets_of(renewed.credentials))
            if self.credentials.get("access_token") != before:
                return  # else other credentials have changed, and the token is the old one still

    def _need(self) -> Need:
        user = self._user
        return Need(
            workspace_id=user.workspace_id,
            connection_id=user.connection_id,
            version=self.version,
            actor=user.actor,
            delivery_id=user.delivery_id,
            attempt_number=user.attempt_number,
        )


def of_connection(
    connection: Connection, provider: Provider, version: int, credentials: Mapping[str, Any], actor: str
) -> Authorization:
    """The authorization of a call that a person has asked for."""
    user = User(connection.workspace_id, connection.pk, actor)
    return Authorization(user, provider, connection.config, version, credentials, Reading.take())


def renew(need: Need, steps: Steps, until: float, patience: float = WAIT_SECONDS) -> Renewed:
    """A newer document than the need's: asked for here, or by another within `patience` seconds. Raises NoToken."""
    patient_until = min(time.monotonic() + patience, until)
    while True:
        begun = steps.begin(need)
        if isinstance(begun, Renewed):
            return begun
        if isinstance(begun, Lease):
            renewed = _ask(begun, steps, until)
            if renewed is not None:
                return renewed
        elif isinstance(begun, Busy):
            _wait(need, steps, patient_until)
        else:
            raise NoToken(begun)


def _ask(lease: Lease, steps: Steps, until: float) -> Renewed | None:
    """Ask the vendor, and keep the answer before it is used; None where another has gone on. Raises NoToken."""
    try:
        seconds = until - time.monotonic()
        if seconds <= 0:
            raise NoToken(unavailable("There was no time left to ask for a token."))
        asked_at = lease.clock.now()
        new = exchange.renew(lease.provider, lease.config, lease.credentials, lease.client, seconds, asked_at=asked_at)
    except NoToken as trouble:
        rested = NoToken(with_rest(trouble.verdict, lease.failures))
        steps.finish(Finish(lease, rested.verdict))
        raise rested from None
    kept = _keep(Finish(lease, new), steps)
    if isinstance(kept, Renewed):
        return kept
    if kept.is_gone:
        if lease.provider.oauth is not None and not lease.provider.oauth.shares_tokens:  # nobody else knows this one
            exchange.revoke(lease.provider, lease.config, tokens.merged(lease.credentials, new), lease.client)
        raise NoToken(ended(lease.provider.name))
    return None


def _keep(finish: Finish, steps: Steps) -> Renewed | Lost:
    """Keep new tokens, with patience while PostgreSQL cannot, for whatever reason that does not lie in themselves:
    nobody else has them, and the old ones may be void.

    A lease that lapses meanwhile does no harm: who cannot write cannot take it either, and `finish` asks whose it is.
    """
    ends_at = time.monotonic() + steps.keep_seconds
    while True:
        try:
            return steps.finish(finish)
        except Error as error:
            if fault_of(error) is Fault.ITEM or time.monotonic() >= ends_at:
                raise
            time.sleep(0.5)
            close_old_connections()


def _wait(need: Need, steps: Steps, until: float) -> None:
    """Until there is something else to see. Raises NoToken when patience ends first."""
    while time.monotonic() < until:
        standing = steps.read(need)
        if standing is None or standing.is_settled(need):
            return
        time.sleep(POLL_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311  (spreads the threads that wait)
    raise NoToken(unavailable(BUSY_WORDS, BUSY_REST_SECONDS))
