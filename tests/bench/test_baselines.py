"""The baseline that needs no servers starts, takes what is posted, and has sent it when it answers."""

from bench.rig import Options, Rig
from bench.systems import Tenant, single
from bench.systems.baselines import InRequest


def test_what_is_posted_to_the_in_request_baseline_has_arrived_with_its_answer(monkeypatch):
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)  # which pytest has set, and a shell has not
    with Rig(Options(quick=True), print) as rig:
        system = InRequest(rig)
        try:
            system.start()
            tenant = Tenant("acme", (rig.url("ok", 1), rig.url("ok", 2)))
            system.connect([tenant])
            answers, _ = rig.load(system.port, [single(system, tenant)], connections=2, count=5)
            assert list(answers.status) == [202] * 5
            assert sorted(rig.arrived().destinations) == [1] * 5 + [2] * 5
        finally:
            system.stop()
