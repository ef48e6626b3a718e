"""`python -m bench [scenario …] [--quick] [--runs N] [--scale X]`; see docs/performance.md."""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterable
from types import ModuleType

from bench import page, plots, report
from bench.cpu import load_average
from bench.rig import BenchError, Options, Rig
from bench.scenarios import backlog, dear, history, idle, ingest, isolation, lanes, latency, start, throughput
from bench.systems import System
from bench.systems.baselines import Classic, InRequest
from bench.systems.meshes import Meshes
from meshes.dev.children import stop_on_signals

COMPARED = {scenario.NAME: scenario for scenario in (throughput, latency, isolation, ingest)}
"""Measured against the baselines, in this order, on systems that each run starts anew: A B C, A B C, …"""
SYSTEMS: tuple[Callable[[Rig], System], ...] = (Meshes, Classic, InRequest)
ALONE = {scenario.NAME: scenario for scenario in (start, lanes, idle, dear, backlog, history)}
"""Of this system only, or with a baseline of their own."""


class Bench:
    """One invocation. A scenario that fails is told, and the others go on."""

    def __init__(self, rig: Rig, results: report.Results) -> None:
        self._rig, self._results = rig, results
        self.failed: list[str] = []

    def compare(self, scenarios: list[ModuleType]) -> None:
        runs = self._rig.options.runs if scenarios else 0
        for run in range(runs):
            for make in SYSTEMS:
                system = make(self._rig)
                self._rig.say(f"{system.name}, run {run + 1} of {runs}")
                try:
                    system.start()
                    for scenario in scenarios:
                        self._attempt(scenario.NAME, lambda of=scenario, at=system: self._measure(of, at), system)
                finally:
                    system.stop()

    def measure_alone(self, scenarios: Iterable[ModuleType]) -> None:
        for scenario in scenarios:
            self._rig.say(scenario.NAME)
            self._attempt(scenario.NAME, lambda of=scenario: of.record(self._rig, self._results))

    def _measure(self, scenario: ModuleType, system: System) -> None:
        before = load_average()
        figures = scenario.figures(scenario.measure(system, self._rig))
        if figures:
            self._results.add(scenario.NAME, system.name, figures, before)
            self._rig.say(f"{system.name}: {scenario.NAME}: {report.in_short(figures)}")

    def _attempt(self, name: str, act: Callable[[], None], system: System | None = None) -> None:
        try:
            act()
        except BenchError as error:
            self.failed.append(name)
            self._rig.say(f"FAILED: {name}: {error}")
            for process in system.roots() if system else ():
                print(f"--- {process}\n{system.log(process) if system else ''}", flush=True)


def main() -> int:
    options, names = arguments()
    began = time.monotonic()
    stop_on_signals()

    def say(sentence: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {sentence}", flush=True)

    results = report.Results(options)
    try:
        with Rig(options, say) as rig:
            bench = Bench(rig, results)
            bench.compare([scenario for name, scenario in COMPARED.items() if name in names])
            bench.measure_alone(scenario for name, scenario in ALONE.items() if name in names)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        written = results.write()
    print(results.tables())
    if not options.quick:
        plots.draw(written)
        page.write()
    say(f"done; figures in {written[0].parent if written else 'no file'}")
    return 1 if bench.failed else 0


def arguments() -> tuple[Options, list[str]]:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure; see docs/performance.md.")
    known = [*COMPARED, *ALONE]
    parser.add_argument("scenarios", nargs="*", metavar="scenario", help=f"of {', '.join(known)}; all by default")
    parser.add_argument("--quick", action="store_true", help="a look in under two minutes; writes no page")
    parser.add_argument("--runs", type=int, help="of each system, in turn (2; quick: 1)")
    parser.add_argument("--scale", type=float, default=1.0, help="of backlog, history and idle connections (1)")
    parsed = parser.parse_args()
    unknown = [name for name in parsed.scenarios if name not in known]
    if unknown:
        parser.error(f"no such scenario: {', '.join(unknown)}; there are {', '.join(known)}")
    default = list(COMPARED) if parsed.quick else known
    runs = parsed.runs or (1 if parsed.quick else 2)
    return Options(parsed.quick, runs, parsed.scale), parsed.scenarios or default


if __name__ == "__main__":
    sys.exit(main())
