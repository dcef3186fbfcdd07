"""What is tried: a fault, then the same again without, and the comparison with the calm run."""

import json
import random
import re
import shutil
from collections import Counter
from dataclasses import dataclass, field, fields

TEMPORARY = re.compile(r"\.?.+-[0-9a-f]{8}-\d+-[^-]+")
TRIED = []
"""All that was tried, for the table at the end."""


@dataclass
class Tried:
    """What came of some points of one kind; a test that asserts a number at once leaves it at 0.

    Attributes:
        what: the fault, and what met it.
        points: how many were tried.
        told: of those, how often a sentence told what is damaged.
        lost: answers that the job wants and has not.
        repeated: calls that were made twice.
        differing: versions or models that are others than those of the calm run.
        leftovers: files that only a run in progress may have.
    """

    what: str
    points: int = 0
    told: int = 0
    lost: int = 0
    repeated: int = 0
    differing: int = 0
    leftovers: int = 0

    def __post_init__(self):
        TRIED.append(self)

    def say(self, begin=""):
        print(  # noqa: T201
            f"\n{begin}{self.what}: {self.points} points tried, {self.lost} rows lost, "
            f"{self.repeated} calls repeated, {self.differing} versions differing, "
            f"{self.leftovers} leftovers{f', {self.told} told in a sentence' if self.told else ''}",
            flush=True,
        )


def table():
    """Lines of what was tried, parts of one kind together, and of all."""
    numbers = [f.name for f in fields(Tried) if f.name != "what"]
    sums = {}
    for one in TRIED:
        for what in (one.what.partition(": ")[0], "all"):
            row = sums.setdefault(what, Counter())
            row.update({name: getattr(one, name) for name in numbers})
    of_all = sums.pop("all")
    names = {
        "points": "points tried", "told": "told in a sentence", "lost": "rows lost",
        "repeated": "calls repeated", "differing": "versions differing",
    }  # fmt: skip
    yield f"| what | {' | '.join(names.get(n, n) for n in numbers)} |"
    yield "|---|" + "--:|" * len(numbers)
    for what, row in [*sorted(sums.items()), ("all", of_all)]:
        yield f"| {what} | {' | '.join(f'{row[n]:,}' for n in numbers)} |"


@dataclass
class Lab:
    """A job, and a driver that does it with faults.

    Attributes:
        folder: holds what the job reads, and the homes.
        driver: process of `tests.faults.driver`.
        job: what the driver is told beside the home: `recipe` or `verb`.
        answers: that the job wants of models.
        width: calls of models that are in flight at a time.
        asked: what a server has been asked since the last run; None counts the answers written.
        template: a home that each trial begins with; None for an empty one.
    """

    folder: object
    driver: object
    job: dict
    answers: int = 0
    width: int = 0
    asked: list | None = None
    template: object = None
    calm: dict = field(default_factory=dict)
    whole: dict = field(default_factory=dict)

    def run(self, home, fault=None, **more):
        """Answer of the driver, and keys of the calls that were made."""
        if self.asked is not None:
            self.asked.clear()
        tally = self.folder / "tally"
        tally.unlink(missing_ok=True)
        if self.template and not (self.folder / home).exists():
            shutil.copytree(self.template, self.folder / home)
        told = {"home": str(self.folder / home), "tally": str(tally), **self.job, "fault": fault}
        told |= more
        self.driver.stdin.write(json.dumps(told) + "\n")
        self.driver.stdin.flush()
        line = self.driver.stdout.readline()
        assert line, "the driver is gone"
        made = tally.read_text().split() if tally.exists() else []
        return json.loads(line), list(made if self.asked is None else self.asked)

    def begin(self):
        """The calm run that all others are compared with."""
        self.calm, asked = self.run("calm")
        assert self.calm["rc"] == 0, self.calm
        assert len(asked) == len(set(asked)) == self.answers
        assert self.leftovers("calm") == []
        self.whole = self.files("calm")
        return self

    def files(self, home):
        """All published files and models but what tells of the run."""
        root = self.folder / home
        return {
            p.relative_to(root).as_posix(): p.read_bytes()
            for top in ("versions", "models", "away")
            for p in sorted((root / top).rglob("*"))
            if p.is_file() and p.name != "provenance.json" and p.suffix != ".lock"
        }

    def leftovers(self, home):
        """What only a run in progress may have."""
        root = self.folder / home
        found = [p for p in root.rglob("*") if TEMPORARY.fullmatch(p.name) and p.suffix != ".calls"]
        found += [*root.rglob("*.keys"), *root.rglob("*.unfinished")]
        return found + [p for p in (root / "store" / "tmp").glob("*") if p not in found]

    def moments(self, n):
        """n moments over the whole job."""
        changes = self.calm["changes"]
        return sorted({1 + round(i * (changes - 1) / (n - 1)) for i in range(n)})

    def remove(self, home):
        shutil.rmtree(self.folder / home)


class Counts(Tried):
    """Points at which a job of a lab is tried."""

    def __init__(self, lab, what):
        super().__init__(what)
        self.lab = lab

    def check(self, home, done, fault, most=None):
        """Do the job again without a fault, and compare with the calm run."""
        lab = self.lab
        again, asked = lab.run(home)
        assert again["rc"] == 0, (fault, again)
        assert again.get("digest") == lab.calm.get("digest"), (fault, again)
        total = [*done, *asked]
        self.lost += lab.answers - len(set(total))
        repeated = len(total) - len(set(total))
        assert repeated <= (lab.width if most is None else most), fault
        self.repeated += repeated
        self.compare(home, fault)
        if self.points % 5 == 1:
            third, asked = lab.run(home)
            assert (third["rc"], asked) == (0, []), (fault, third)
            assert (third["new"], third["made"]) == (False, 0), (fault, third)
        lab.remove(home)

    def compare(self, home, fault):
        """What there is now, beside what the calm run left."""
        lab, now, left = self.lab, self.lab.files(home), self.lab.leftovers(home)
        self.points += 1
        self.differing += now != lab.whole
        self.leftovers += len(left)
        if now != lab.whole or left:
            names = {n for n in now.keys() | lab.whole.keys() if now.get(n) != lab.whole.get(n)}
            print(f"\n{self.what} {fault}: differing {sorted(names)[:9]}, left {left[:9]}")  # noqa: T201
        if self.points % 5 == 0:
            self.say("so far, ")

    def show(self):
        """Print the counts; nothing may be lost, left or differ."""
        self.say()
        assert (self.lost, self.differing, self.leftovers) == (0, 0, 0)
        return self.points


def kills(lab, what, at_all):
    """`kill -9` at each moment."""
    counts = Counts(lab, f"kill -9, {what}")
    for at in at_all:
        fault = {"kind": "kill", "at": at}
        killed, asked = lab.run("killed", fault)
        if killed["rc"] == 0:  # threads made fewer changes this time
            lab.remove("killed")
            continue
        assert killed["rc"] == -9, killed
        counts.check("killed", asked, fault)
    return counts.show()


def failing(lab, what, kind, n, lasting):
    """The job says so in a sentence, with exit code 2 or 3, and goes on when there is room."""
    counts = Counts(lab, f"{kind}{', lasting' if lasting else ''}, {what}")
    for at in lab.moments(n):
        fault = {"kind": kind, "at": at, "lasting": lasting}
        failed, asked = lab.run("failing", fault)
        if failed["rc"] == 0:  # what failed was not needed
            lab.remove("failing")
            continue
        assert failed["rc"] in (2, 3), (fault, failed)
        if kind == "ENOSPC":
            assert failed["rc"] == 3, (fault, failed)
        counts.check("failing", asked, fault, most=lab.answers)
    return counts.show()


def kinds_of_files(home):
    """Files of a home by what they are: top folder, and name or suffix."""
    kinds = {}
    for path in sorted(p for p in home.rglob("*") if p.is_file() and p.stat().st_size):
        parts = path.relative_to(home).parts
        by_name = path.suffix in (".json", ".yaml", ".html", ".md", ".parquet", ".jinja")
        name = path.name if by_name else path.suffix or path.name
        kinds.setdefault(f"{parts[0]}/{name}", []).append(path)
    return kinds


def flip(path, rng):
    """Turn one bit of a file, not of what fills it up."""
    path.write_bytes(turned(path.read_bytes(), rng))


def turned(whole, rng):
    """The same bytes, but for one bit."""
    data = bytearray(whole)
    data[rng.choice([at for at, byte in enumerate(data) if byte] or [0])] ^= 1 << rng.randrange(8)
    return bytes(data)


def seeded(what):
    return random.Random(f"3 {what}")
