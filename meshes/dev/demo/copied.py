"""The demo's last scene: somebody with the database copies Acme's Slack credential over Globex's.

The copy must open nothing: the lead that comes waits, Slack hears nothing, and the alarm sounds. Globex's own token,
put in again, sends it.
"""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psycopg2

from meshes.dev.demo.act import ACME, GLOBEX
from meshes.dev.demo.second_act import ACCOUNTS, Outlet, SecondAct
from meshes.kit import ids

COPY = """
UPDATE sealed_documents AS mine SET document = other.document, version = other.version, key_id = other.key_id
FROM sealed_documents AS other
WHERE mine.connection_id = %s AND other.connection_id = %s
"""


@dataclass(frozen=True, slots=True)
class Copied:
    """What came of the copy: rows written by it, deliveries it held and calls it made, refusals recorded, alarms in
    the log, and the deliveries that went out once Globex's own token was back."""

    rows: int
    held: int
    calls: int
    refused: int
    alarms: int
    delivered: int

    @property
    def did_nothing(self) -> bool:
        return (self.rows, self.held, self.calls, self.delivered) == (1, 1, 0, 1) and min(self.refused, self.alarms) > 0


def play(act: SecondAct, database_url: str, logs: Path) -> Copied:
    act.say("Acme's Slack credential is copied in SQL over Globex's; one more lead comes")
    acme, globex = act.outlet("slack", ACME), act.outlet("slack", GLOBEX)
    rows = _copy(database_url, source=acme, target=globex)
    calls, delivered = len(act.vendors.requests("slack")), act.count(globex, "succeeded")
    act.post_hot_lead(GLOBEX)
    act.wait("held", lambda: act.count(globex, "held"), 1)
    globex.waited = held = act.count(globex, "held")
    calls = len(act.vendors.requests("slack")) - calls
    refused = act.api.all(f"/workspaces/{GLOBEX}/access-log?connection={globex.connection}&granted=false")
    alarms = _alarms(logs, f"credentials of {globex.connection} of workspace")
    token = ACCOUNTS["slack", GLOBEX][1]
    act.api.patch(f"/connections/{globex.connection}", {"credentials": {"access_token": token}})
    act.wait("delivered", lambda: act.count(globex, "succeeded") - delivered, 1)
    return Copied(rows, held, calls, len(refused), alarms, act.count(globex, "succeeded") - delivered)


def _copy(database_url: str, *, source: Outlet, target: Outlet) -> int:
    pair = [str(ids.decode(ids.CONNECTION, outlet.connection)) for outlet in (target, source)]
    with closing(psycopg2.connect(database_url)) as database, database, database.cursor() as cursor:
        cursor.execute(COPY, pair)
        written: int = cursor.rowcount
        return written


def _alarms(logs: Path, words: str) -> int:
    lines = [line for path in logs.glob("deliver.*") for line in path.read_text(errors="replace").splitlines()]
    return sum(" ERROR " in line and words in line and "refused to open" in line for line in lines)
