"""Kills, full, read-only, failing and slow file systems, clocks that jump, and flipped bits.

A sample runs in the default suite; `make test-faults` tries every moment and prints its counts.
"""

import json
import random
import shutil

import pytest

from tests.faults.conftest import PROMPTS, SAMPLES, WIDTH

CALLS = SAMPLES * PROMPTS


class Counts:
    """What the suite says at its end."""

    def __init__(self, what):
        self.what = what
        self.points = self.lost = self.repeated = self.differing = self.leftovers = 0

    def check(self, lab, home, clean, done, fault, most=WIDTH):
        """Run again without a fault, and compare with the undisturbed run."""
        answer, files = clean
        again, asked = lab.run(home)
        assert again["rc"] == 0, (fault, again)
        total = [*done, *asked]
        self.points += 1
        self.lost += CALLS - len(set(total))
        self.repeated += len(total) - len(set(total))
        assert len(total) - len(set(total)) <= most, fault
        self.differing += again["digest"] != answer["digest"] or lab.files(home) != files
        self.leftovers += len(lab.leftovers(home))
        if self.points % 5 == 1:
            third, asked = lab.run(home)
            assert (third["new"], third["made"], asked) == (False, 0, []), (fault, third)
        shutil.rmtree(lab.folder / home)

    def show(self):
        """Print the counts; nothing may be lost, left or differ."""
        print(  # noqa: T201
            f"\n{self.what}: {self.points} points tried, {self.lost} rows lost, "
            f"{self.repeated} calls repeated, {self.differing} versions differing, "
            f"{self.leftovers} leftovers"
        )
        assert (self.lost, self.differing, self.leftovers) == (0, 0, 0)


def moments(clean, n):
    """n moments over the whole run."""
    changes = clean[0]["changes"]
    return [1 + round(i * (changes - 1) / (n - 1)) for i in range(n)]


def kills(lab, clean, at_all):
    counts = Counts("kill -9")
    for at in at_all:
        fault = {"kind": "kill", "at": at}
        killed, asked = lab.run("killed", fault)
        if killed["rc"] == 0:  # threads made fewer changes this time
            shutil.rmtree(lab.folder / "killed")
            continue
        assert killed["rc"] == -9, killed
        counts.check(lab, "killed", clean, asked, fault)
    counts.show()
    return counts.points


def failing(lab, clean, kind, n, lasting):
    """The run says so in a sentence, with exit code 2 or 3, and goes on when there is room."""
    counts = Counts(f"{kind}{', lasting' if lasting else ''}")
    for at in moments(clean, n):
        fault = {"kind": kind, "at": at, "lasting": lasting}
        failed, asked = lab.run("failing", fault)
        if failed["rc"] == 0:  # what failed was not needed
            shutil.rmtree(lab.folder / "failing")
            continue
        assert failed["rc"] in (2, 3), (fault, failed)
        if kind == "ENOSPC":
            assert failed["rc"] == 3, (fault, failed)
        counts.check(lab, "failing", clean, asked, fault, most=CALLS)
    counts.show()
    return counts.points


def test_a_sample_of_kills(lab, clean):
    assert kills(lab, clean, moments(clean, 4)[1:]) >= 2


def test_a_sample_of_full_disks(lab, clean):
    assert failing(lab, clean, "ENOSPC", 2, lasting=True) >= 1


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("first", [1, 2])
def test_every_kill(lab, clean, first):
    """Every change to the file system, of which there are more than 200, in two halves."""
    assert kills(lab, clean, range(first, clean[0]["changes"] + 1, 2)) >= 100


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kind", ["ENOSPC", "EROFS", "EIO"])
@pytest.mark.parametrize("lasting", [True, False])
def test_failing_file_systems(lab, clean, kind, lasting):
    assert failing(lab, clean, kind, 25, lasting) >= 10


@pytest.mark.slow
def test_a_slow_file_system(lab, clean):
    slow, asked = lab.run("slow", {"kind": "slow", "seconds": 0.02})
    assert (slow["rc"], slow["digest"], len(asked)) == (0, clean[0]["digest"], CALLS)
    shutil.rmtree(lab.folder / "slow")


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [-40 * 86400, 40 * 86400])
def test_a_clock_that_jumps(lab, clean, seconds):
    """The content is that of before, and the number of the next version never goes back."""
    answer, _ = clean
    for at in moments(clean, 5):
        jumped, _ = lab.run("clock", {"kind": "clock", "at": at, "seconds": seconds})
        assert (jumped["rc"], jumped["digest"]) == (0, answer["digest"])
        again, asked = lab.run("clock")
        assert (again["new"], asked) == (False, [])
        shutil.rmtree(lab.folder / "clock")


def flips(lab, clean, folder, n):
    """Flip a bit in files of a kind; the next run has the same content, and says what is wrong."""
    answer, _ = clean
    rng = random.Random(3)
    shutil.copytree(lab.folder / "clean", lab.folder / "whole", dirs_exist_ok=True)
    files = sorted(p for p in (lab.folder / "whole" / folder).rglob("*") if p.is_file())
    files = [f for f in files if f.stat().st_size]
    tried = 0
    for path in rng.sample(files, min(n, len(files))):
        home = lab.folder / "flipped"
        shutil.copytree(lab.folder / "whole", home)
        target = home / path.relative_to(lab.folder / "whole")
        data = bytearray(target.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        target.write_bytes(data)
        again, asked = lab.run("flipped")
        assert (again["rc"], again["digest"]) == (0, answer["digest"]), (target, again)
        assert len(asked) <= (2 if folder == "journal" else 0), target
        shutil.rmtree(home)
        tried += 1
    print(f"\nflipped bits in {folder}: {tried} points tried, 0 versions differing")  # noqa: T201
    shutil.rmtree(lab.folder / "whole")


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("folder", ["store", "journal", "versions"])
def test_flipped_bits(lab, clean, folder):
    flips(lab, clean, folder, 30)


def test_the_driver_tells_what_happened(lab, clean):
    """Without it the suite could not fail: a fault that is asked for does happen."""
    first, _ = lab.run("told", {"kind": "EIO", "at": 1, "lasting": True})
    assert first["rc"] == 2, first
    assert "Input/output error" in first["error"]
    assert json.dumps(clean[0])
