"""What a step of the meter is worth: `python -m bench.metering [cases] [seed]`.

Filters and mappings are made at random, and payloads for them; each is evaluated five times, and the least CPU time of
its thread is compared with the steps that it was charged. Where a charge is for the worst case and not for this one
(a regular expression that is found early, or whose states RE2 may have to make anew), it is counted apart.
"""

import json
import math
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import worst_cases
from bench.worst_cases import Case, filter_case, mapping_case, reading_case
from delivery.rules.regexes import BYTES_PER_STEP, compile_regex
from meshes.kit.metering import EVENT_STEPS, Meter, OutOfWorkError

RESULTS = Path(__file__).parent / "results" / "metering.json"
STEP_NANOSECONDS = 70
"""What a step is worth on the machine that the meter was calibrated on."""
LARGE_STEPS = 2_000
"""Evaluations from which the cost of a whole event is told."""
SHORTEST_SECONDS = 100e-6
"""Shorter evaluations are repeated until so much time has passed: a clock tells them no better."""
REPEATS = 5

WORDS = (
    "ada",
    "Grace",
    "pricing",
    "über",
    "日本語",
    "ok",
    "no",
    "x" * 40,
    "lorem ipsum dolor",
    "a@b.example",
    "4711",
    "",
)
EXPRESSIONS = (
    "payload.list[*].name", "payload.list[?score > `50`].name", "payload.list[].tags[]", "length(payload.list)",
    "payload.list[*].[name, score]", "payload.list[*].{n: name, s: score}", "sort_by(payload.list, &score)[0].name",
    "max_by(payload.list, &score).name", "join(', ', payload.words)", "payload.words[?contains(@, 'a')]",
    "sum(payload.numbers)", "payload.numbers[?@ == `7`]", "payload.list[?tags == payload.words]",
    "reverse(payload.words)",
    "payload.list[0:5].name", "payload.text", "payload.list[*].score | [0]", "keys(payload)", "to_string(payload.list)",
    "map(&to_string(@), payload.numbers)", "payload.numbers[?@ == payload.list]", "payload.list[?name != 'ada'] | [0]",
    "sort(payload.words)", "merge(payload.list[0], payload.list[1])", "payload.list[*].tags[0]",
    "starts_with(payload.text, 'a')", "payload.missing || payload.text", "avg(payload.numbers)", "max(payload.numbers)",
    "contains(payload.words, 'ada')", "payload.list[-1].tags", "payload.numbers[::2]", "values(payload.list[0])",
)  # fmt: skip
TRANSFORMS: tuple[Any, ...] = (
    "to_string", "trim", "lower", "upper", "md5", "sha256", {"substring": {"start": 1, "end": 400}}, {"split": ","},
    {"replace": {"find": "a", "with": "b"}}, {"default": "none"},
)  # fmt: skip
REGEXES = (
    r"\pL+", r"^.{1,255}@example\.com", r"(?i)hello", r"[a-z]+@[a-z]+\.com", r"^\S+@\S+\.\S+$", r"\d{3}-\d{4}",
    r"^\pL+$", r"[\pL\pN]+@[\pL\pN]+x", r"\bvip\b", r"(foo|bar|baz){1,20}!", r"https?://[^/]+/pricing",
    r"[^@]+@[^@]+$", r"a.{30}c", r"(a|b)*a(a|b){20}$", r"(x+x+)+y", r"[a-f0-9]{32}",
)  # fmt: skip

LETTERS = ("ab", "aA", "a1", "a ", "кг", "กข", "\x01\x02", "њљ", "日本", "βϐ", "aé", "🙂🙃")
"""That an expression tells apart, or not."""


@dataclass(frozen=True, slots=True)
class Sample:
    kind: str
    name: str
    steps: int
    seconds: float
    is_worst_case: bool

    @property
    def nanoseconds(self) -> float:
        """Of a step."""
        return 1e9 * self.seconds / self.steps


# --- the corpus -----------------------------------------------------------------------------------------------------


class Corpus:
    """Cases, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def cases(self, number: int) -> list[Case]:
        kinds = (self.comparison, self.filter, self.mapping, self.regex, self.reading)
        return [kinds[index % len(kinds)]() for index in range(number)]

    def comparison(self) -> Case:
        """One clause on one large value, of whatever types."""
        operator, operand = self.clause()
        value = self.value(self.size(20_000))
        document = {"payload.value": {operator: operand}}
        return filter_case("comparison", json.dumps(document)[:300], document, {"value": value})

    def filter(self) -> Case:
        document = {self.chance.choice(("$and", "$or")): [self.condition() for _ in range(self.chance.randint(1, 30))]}
        return filter_case("filter", json.dumps(document)[:300], document, self.payload())

    def mapping(self) -> Case:
        entries = [self.entry(index) for index in range(self.chance.randint(1, 12))]
        return mapping_case("mapping", json.dumps(entries)[:300], entries, self.payload())

    def regex(self) -> Case:
        """A known expression on some text, or one that is made for letters on a text of these."""
        if self.chance.random() < 0.4:
            pattern, text = self.chance.choice(REGEXES), self.text(self.size(20_000))
        else:
            pattern, letters = self.expression()
            text = "".join(self.chance.choices(letters, k=self.size(20_000)))
        regex = compile_regex(pattern)
        size = len(text.encode())
        is_worst_case = regex.steps(len(text), size) > size // BYTES_PER_STEP or regex.is_found(text, Meter(10**9))
        return Case(
            "regex",
            f"{pattern!r} on {len(text)} characters",
            lambda meter: regex.is_found(text, meter),
            is_worst_case or regex.cut is not None,
        )

    def expression(self) -> tuple[str, str]:
        """An expression that looks back at what a text of these letters may begin with, and never finds its end."""
        first, second = letters = self.chance.choice(LETTERS)
        both, count = f"[{first}{second}]", self.chance.randint(1, 30)
        kinds = (
            f"{first}{both}{{{count}}}#",
            f"{first}{both}{{{self.chance.randint(0, 3)},{count + 3}}}#",
            f"({first}|{second}|{first}{second}){{{count}}}#",
            f"(?:{first}?{second}?){{{count}}}#",
            f"(?s){first}.{{{count}}}#",
            rf"\b[{both[1:-1]}\w ]{{{count}}}#",
            f"(?i){first}(?-i:{second}|{first}){{{count}}}#",
            rf"{first}(?:\pL|\pN|{second}){{{count % 6 + 1}}}#",
            rf"{first}\pL$",
            f"^(?:{first}|{both}){{1,{8 * count}}}#",
        )
        return self.chance.choice(kinds), letters + self.chance.choice(("", " ", "1"))

    def reading(self) -> Case:
        text = json.dumps(self.payload(), ensure_ascii=False)
        return reading_case(f"{len(text)} characters", text)

    # --- its parts

    def size(self, most: int) -> int:
        return round(math.exp(self.chance.uniform(0, math.log(most))))

    def text(self, length: int) -> str:
        letters = self.chance.choice(("abc xyz,@.-0123456789", "ab", "lorem ipsum", "αβγδεж中文字 ,"))
        return "".join(self.chance.choices(letters, k=length))

    def scalar(self) -> Any:
        return self.chance.choice(
            (None, True, False, 7, 4711, 0.5, -3, 10**40, *WORDS, self.text(self.chance.randint(1, 60)))
        )

    def value(self, size: int) -> Any:
        """A value of about so many members or characters."""
        shape = self.chance.randrange(7)
        if shape == 0 or size < 3:
            return self.scalar()
        if shape == 1:
            return self.text(size)
        if shape == 2:
            return [self.scalar() for _ in range(size)]
        if shape == 3:
            return list(range(size))
        if shape == 4:
            return [[self.scalar(), 1, 2] for _ in range(size // 4)]
        if shape == 5:
            return [{"name": self.scalar(), "score": index} for index in range(size // 3)]
        return {f"key{index}": self.scalar() for index in range(size)}

    def clause(self) -> tuple[str, Any]:
        operator = self.chance.choice(
            (
                "$eq",
                "$neq",
                "$in",
                "$nin",
                "$gt",
                "$lte",
                "$exist",
                "$startsWith",
                "$endsWith",
                "$contains",
                "$eq",
                "$neq",
            )
        )
        if operator in ("$in", "$nin"):
            return operator, [self.scalar() for _ in range(self.chance.randint(1, 50))]
        if operator == "$exist":
            return operator, self.chance.random() < 0.5
        if operator in ("$startsWith", "$endsWith"):
            return operator, self.chance.choice([word for word in WORDS if word])
        if operator in ("$gt", "$lte"):
            return operator, self.chance.choice((50, 0.5, "m"))
        if operator == "$contains":
            return operator, self.chance.choice([word for word in WORDS if word] + [7])
        return operator, self.value(self.size(40))

    def condition(self) -> dict[str, Any]:
        operator, operand = self.clause()
        field = self.chance.choice(
            ("list.name", "list.tags", "list", "words", "numbers", "text", "missing", "list.0.score")
        )
        condition: dict[str, Any] = {f"payload.{field}": {operator: operand}}
        return {"$not": condition} if self.chance.random() < 0.2 else condition

    def entry(self, index: int) -> dict[str, Any]:
        entry: dict[str, Any] = {"to": f"out.field{index}", "from": self.chance.choice(EXPRESSIONS), "on_error": "null"}
        if self.chance.random() < 0.5:
            entry["transforms"] = self.chance.sample(TRANSFORMS, self.chance.randint(1, 3))
        return entry

    def payload(self) -> dict[str, Any]:
        size = self.size(1_500)
        members = [
            {"name": self.chance.choice(WORDS), "score": self.chance.randrange(100), "tags": ["a", "b", index]}
            for index in range(size)
        ]
        words = [self.chance.choice(WORDS) for _ in range(size)]
        return {"list": members, "words": words, "numbers": list(range(size)), "text": self.text(4 * size)}


# --- measuring ------------------------------------------------------------------------------------------------------


def measure(case: Case) -> Sample | None:
    """The least of five; None where the case needs more than an event may cost."""
    try:
        steps, seconds = _run(case, 1)
        times = max(1, math.ceil(SHORTEST_SECONDS / max(seconds, 1e-7)))
        seconds = min(_run(case, times)[1] for _ in range(REPEATS)) / times
    except OutOfWorkError:
        return None
    return Sample(case.kind, case.name, steps, seconds, case.is_worst_case)


def _run(case: Case, times: int) -> tuple[int, float]:
    meters = [Meter(EVENT_STEPS) for _ in range(times)]
    started = time.thread_time()
    for meter in meters:
        case.run(meter)
    return meters[0].spent, time.thread_time() - started


def figures(samples: list[Sample]) -> dict[str, Any]:
    """By kind: nanoseconds of a step, and how many are further than a factor of three from what one is worth."""
    made: dict[str, Any] = {"step_nanoseconds": STEP_NANOSECONDS}
    for kind in sorted({sample.kind for sample in samples}):
        costs = sorted(sample.nanoseconds for sample in samples if sample.kind == kind and not sample.is_worst_case)
        worst = [sample.nanoseconds for sample in samples if sample.kind == kind and sample.is_worst_case]
        made[kind] = {
            "cases": len(costs),
            "least": round(costs[0], 1) if costs else None,
            "median": round(costs[len(costs) // 2], 1) if costs else None,
            "most": round(costs[-1], 1) if costs else None,
            "beyond_a_factor_of_three": sum(not STEP_NANOSECONDS / 3 <= cost <= STEP_NANOSECONDS * 3 for cost in costs),
            "charged_for_the_worst_case": len(worst),
            "most_of_these": round(max(worst, default=0.0), 1),
        }
    large = [sample.nanoseconds for sample in samples if sample.steps >= LARGE_STEPS]
    return made | {"milliseconds_of_a_whole_event_at_most": round(EVENT_STEPS * max(large, default=0.0) / 1e6)}


def main() -> int:
    given = sys.argv[1:]
    number, seed = int((given[:1] or ["2000"])[0]), int((given[1:2] or ["1"])[0])
    worst = list(worst_cases.cases())
    cases = [*Corpus(seed).cases(number), *worst[:: max(1, len(worst) // (4 * number))]]
    samples = [sample for case in cases if (sample := measure(case))]
    counts = {"cases": len(cases), "by_chance": number, "seed": seed, "beyond_the_limit": len(cases) - len(samples)}
    made = counts | figures(samples)
    RESULTS.write_text(json.dumps(made, indent=2) + "\n")
    print(json.dumps(made, indent=2))
    for sample in sorted(samples, key=lambda each: each.nanoseconds)[:: max(1, len(samples) - 1)] + _worst(samples):
        print(f"{sample.nanoseconds:7.1f} ns a step, {sample.steps:,} steps: {sample.kind} {sample.name}")
    return 0


def _worst(samples: list[Sample]) -> list[Sample]:
    counted = [sample for sample in samples if not sample.is_worst_case]
    ordered = sorted(counted, key=lambda each: each.nanoseconds)
    return ordered[:12] + ordered[-25:]


if __name__ == "__main__":
    sys.exit(main())
