"""`python -m bench [scenario …] [--quick] [--runs N] [--scale X]`; see docs/performance.md."""

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from types import ModuleType

from bench import report
from bench.rig import BenchError, Options, Rig
from bench.cpu import load_average
from bench.scenarios import ingest, isolation, latency, throughput
from bench.systems import System
from bench.systems.baselines import Classic, InRequest
from bench.systems.meshes import Meshes

COMPARED = {scenario.NAME: scenario for scenario in (throughput, ingest, latency, isolation)}
"""Measured against the baselines, in this order, each run on fresh systems."""
SYSTEMS: tuple[Callable[[Rig], System], ...] = (Meshes, Classic, InRequest)
ALONE: dict[str, ModuleType] = {}
"""Of this system only, or with a baseline of their own."""


def main() -> None:
    options, names = arguments()
    began = time.monotonic()

    def say(sentence: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {sentence}", flush=True)

    results = report.Results(options)
    with Rig(options, say) as rig:
        compared = {name: COMPARED[name] for name in names if name in COMPARED}
        for run in range(options.runs if compared else 0):
            for make in SYSTEMS:
                with running(make(rig), rig, f"run {run + 1} of {options.runs}") as system:
                    for name, scenario in compared.items():
                        measure(system, rig, scenario, results)
        for name in names:
            if name in ALONE:
                say(name)
                ALONE[name].record(rig, results)
    results.write()
    print(results.tables())
    say("done")


def measure(system: System, rig: Rig, scenario: ModuleType, results: report.Results) -> None:
    began = load_average()
    figures = scenario.figures(scenario.measure(system, rig))
    if figures:
        results.add(scenario.NAME, system.name, figures, began)
        rig.say(f"{system.name}: {scenario.NAME}: {report.in_short(figures)}")


@contextlib.contextmanager
def running(system: System, rig: Rig, which: str) -> Iterator[System]:
    rig.say(f"{system.name}, {which}")
    try:
        system.start()
        yield system
    except BenchError:
        for name in system.roots():
            print(f"--- {system.name}: {name}\n{system.log(name)}", flush=True)
        raise
    finally:
        system.stop()


def arguments() -> tuple[Options, list[str]]:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure; see docs/performance.md.")
    known = [*COMPARED, *ALONE]
    parser.add_argument("scenarios", nargs="*", metavar="scenario", help=f"of {', '.join(known)}; all by default")
    parser.add_argument("--quick", action="store_true", help="a look in under two minutes; writes no page")
    parser.add_argument("--runs", type=int, help="of each system, in turn (3; quick: 1)")
    parser.add_argument("--scale", type=float, default=0.1, help="of backlog, history and idle connections (0.1)")
    parsed = parser.parse_args()
    unknown = [name for name in parsed.scenarios if name not in known]
    if unknown:
        parser.error(f"no such scenario: {', '.join(unknown)}; there are {', '.join(known)}")
    default = list(COMPARED) if parsed.quick else known
    runs = parsed.runs or (1 if parsed.quick else 3)
    return Options(parsed.quick, runs, parsed.scale), parsed.scenarios or default


if __name__ == "__main__":
    main()
