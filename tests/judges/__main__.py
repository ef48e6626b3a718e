"""Hold every request to vendors against what the vendors publish, and print a row for each of them."""

import json
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import django

os.environ |= {"DJANGO_SETTINGS_MODULE": "meshes.settings", "MESHES_DATA_DIR": "/nonexistent"}
os.environ.setdefault("SECRET_KEY", "judging")
os.environ.setdefault("FERNET_KEYS", "anVkZ2luZyBqdWRnaW5nIGp1ZGdpbmcganVkZ2luZyBqdWQ")
os.environ["MESHES_PUBLIC_URL"] = "https://meshes.example.com"  # by which Discord knows who sends
django.setup()
logging.disable(logging.CRITICAL)  # the SDKs tell of every event that they send

from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402  (Django first)
from hypothesis import strategies as st  # noqa: E402

from connections import providers  # noqa: E402
from meshes.dev.vendors.registry import VENDORS  # noqa: E402
from tests.judges.rows import Row, rows  # noqa: E402
from tests.judges.sdks import recording  # noqa: E402
from tests.judges.sending import EVENT_TYPES, LEADS, Sent, mappings, regions, sent  # noqa: E402

PAYLOADS = 150
SHOWN = 5
TABLE = "{:11} {:12} {:>6} {:>7} {:>11} {:>9}  {}"
STRONG = 12
"""Vendors that must be judged by more than words."""
OLD = Path(__file__).with_name("old_requests.json")


def main(folder: Path, *only: str) -> int:
    failures: list[str] = []
    with recording() as recorder:
        found = {row.slug: row for row in rows(folder, recorder)}
        if missing := sorted({each.slug for each in providers.all()} - set(found) - {"webhook"}):
            failures.append(f"no row for {', '.join(missing)}")
        print(TABLE.format("vendor", "judge", "judged", "refused", "old refused", "uncovered", "version"))
        for row in found.values():
            if only and row.slug not in only:
                continue
            judged, refused, uncovered = _judge(row)
            old, passed = _old(row)
            told = f"{old - len(passed)} of {old}"
            print(TABLE.format(row.slug, row.kind, judged, len(refused), told, uncovered, row.name), flush=True)
            if row.sought:
                print(f"{'':11} by words alone; looked for: {row.sought}")
            failures += [
                f"{row.slug}: the quotation is not in {rule.file}: {rule.quote}"
                for rule in row.rules
                if not rule.stands_in(folder)
            ]
            failures += [f"{row.slug}: the old request passes: {name}" for name in passed]
            failures += [f"{row.slug}: {each}" for each in refused[:SHOWN]]
            if judged == 0:
                failures.append(f"{row.slug}: no request was judged")
    strong = sum(row.kind != "words" for row in found.values())
    print(f"{len(found)} rows, {strong} by SDK or description, {len(failures)} failures")
    for failure in failures:
        print(f"  {failure}")
    return 1 if failures or strong < STRONG else 0


def _judge(row: Row) -> tuple[int, list[str], int]:
    """How many requests were judged, what is wrong with those that are refused, and how many nobody speaks of."""
    provider = providers.get(row.slug)
    refused: list[str] = []
    counts = {"judged": 0, "uncovered": 0}

    with VENDORS[row.slug]() as server:

        @settings(
            max_examples=PAYLOADS,
            database=None,
            derandomize=True,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(payload=LEADS, event=EVENT_TYPES, data=st.data())
        def run(payload: Any, event: str, data: st.DataObject) -> None:
            for action in provider.actions:
                own = data.draw(st.just([]) | mappings(row.slug, action))
                region = data.draw(st.sampled_from(regions(provider)))
                for request in sent(server, action, payload, own, event, region):
                    wanted = request.wanted | {"mapping": "own" if own else "default"}
                    told = row.judge(replace(request, wanted=wanted))
                    counts["judged" if told is not None else "uncovered"] += 1
                    if told:
                        refused.append(f"{'; '.join(told)} <- {json.dumps(payload)[:300]} {json.dumps(own)}")

        run()
    return counts["judged"], refused, counts["uncovered"]


def _old(row: Row) -> tuple[int, list[str]]:
    """How many old requests the vendor has, and those that pass although they were wrong."""
    old = [each for each in json.loads(OLD.read_text()) if each["vendor"] == row.slug]
    passed = []
    for each in old:
        headers = {name.lower(): value for name, value in each["headers"]}
        if not row.judge(Sent(each["method"], each["url"], headers, each["body"].encode(), each["wanted"])):
            passed.append(each["sample"])
    return len(old), passed


if __name__ == "__main__":
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_dir():
        sys.exit("make test-vendors FROM=<folder with the vendors' descriptions>: see tests/judges/README.md")
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
