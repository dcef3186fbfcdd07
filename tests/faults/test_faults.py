"""Kills, full, read-only, failing and slow file systems, clocks that jump, and flipped bits.

A sample runs in the default suite; `make test-faults` tries every moment and prints its counts.
"""

import shutil

import pytest

from catalog.versions import Catalog, verify
from tests.faults.trials import Tried, failing, flip, kills, kinds_of_files, seeded


def test_a_sample_of_kills(lab):
    assert kills(lab, "a server", lab.moments(4)[1:3]) >= 1


def test_a_sample_of_full_disks(lab):
    assert failing(lab, "a server", "ENOSPC", 2, lasting=True) >= 1


def test_the_driver_tells_what_happened(lab):
    """Without it the suite could not fail: a fault that is asked for does happen."""
    first, _ = lab.run("told", {"kind": "EIO", "at": 1, "lasting": True})
    assert first["rc"] == 2, first
    assert "Input/output error" in first["error"]


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("part", range(3))
def test_kills(lab, part):
    """120 moments over the whole run, in three parts."""
    assert kills(lab, f"a server: part {part + 1}", lab.moments(120)[part::3]) >= 35


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kind", ["ENOSPC", "EROFS", "EIO"])
@pytest.mark.parametrize("lasting", [True, False])
def test_failing_file_systems(lab, kind, lasting):
    assert failing(lab, "a server", kind, 25, lasting) >= 10


@pytest.mark.slow
def test_a_slow_file_system(lab):
    slow, asked = lab.run("slow", {"kind": "slow", "seconds": 0.02})
    assert (slow["rc"], slow["digest"], len(asked)) == (0, lab.calm["digest"], lab.answers)
    assert lab.files("slow") == lab.whole
    Tried("a slow disk, a server", 1).say()
    lab.remove("slow")


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [-40 * 86400, 40 * 86400])
def test_a_clock_that_jumps(lab, seconds):
    """The content is that of before, and the number of the next version never goes back."""
    tried = Tried("a clock that jumps, a server")
    for at in lab.moments(5):
        jumped, _ = lab.run("clock", {"kind": "clock", "at": at, "seconds": seconds})
        assert (jumped["rc"], jumped["digest"]) == (0, lab.calm["digest"])
        again, asked = lab.run("clock")
        assert (again["new"], asked) == (False, [])
        tried.points += 1
        lab.remove("clock")
    tried.say()


DAY = 86400
GROWING = [(8, 0), (16, -40), (24, 40), (32, -3), (40, -400)]
"""Prompts of the source, and by how many days the clock is wrong then."""


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_a_source_that_grows_while_the_clock_jumps(lab, killed):
    """Numbers go up, each question is asked once, and what a killed run claimed is free."""
    source = lab.folder / "prompts.jsonl"
    whole = source.read_text().splitlines(keepends=True)
    asked, made = [], []
    try:
        for rows, days in GROWING:
            source.write_text("".join(whole[:rows]))
            if killed:  # with another clock than the run after it
                kill = {"kind": "kill", "at": lab.calm["changes"] // 3}
                ended, calls = lab.run("grown", kill, clock=-7 * days * DAY)
                assert ended["rc"] in (0, -9)
                asked += calls
            again, calls = lab.run("grown", clock=days * DAY)
            assert again["rc"] == 0, again
            asked += calls
            assert len(set(asked)) == 2 * rows
            made.append(again["version"])
            same, calls = lab.run("grown", clock=-days * DAY)
            assert (same["new"], same["version"], calls) == (False, made[-1], [])
        repeated = len(asked) - len(set(asked))
        assert repeated <= (lab.width * len(GROWING) if killed else 0)
        assert again["digest"] == lab.calm["digest"]
        numbers = [v.manifest.version for v in Catalog(lab.folder / "grown").versions("asked")]
        assert made == [n for n in numbers if n in made] == list(dict.fromkeys(made))
        assert made[-1] == numbers[-1]
    finally:
        source.write_text("".join(whole))
    Tried("a source that grows while clocks jump", len(GROWING), repeated=repeated).say()
    lab.remove("grown")


def flipped_bits(lab, tops, each):
    """A bit of files of every kind: the next run has the same content, and says what is wrong."""
    lab.run("whole")
    tried = 0
    for kind, files in kinds_of_files(lab.folder / "whole").items():
        if not kind.startswith(tops):
            continue
        rng = seeded(kind)
        for path in rng.sample(files, min(each, len(files))):
            shutil.copytree(lab.folder / "whole", lab.folder / "flipped")
            flip(lab.folder / "flipped" / path.relative_to(lab.folder / "whole"), rng)
            again, asked = lab.run("flipped")
            assert (again["rc"], again.get("digest")) == (0, lab.calm["digest"]), (path, again)
            assert len(asked) <= (2 if kind.startswith("journal") else 0), path
            if kind.startswith("versions") and path.name not in ("provenance.json",):
                damaged = [v for v in Catalog(lab.folder / "flipped") if verify(v)]
                assert again["new"], path
                assert len(damaged) == 1 or path.name == "manifest.json", path
            lab.remove("flipped")
            tried += 1
    lab.remove("whole")
    Tried(f"flipped bits, {'/'.join(tops)} of a run", tried).say()
    return tried


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("top", ["store", "journal", "versions"])
def test_flipped_bits(lab, top):
    assert flipped_bits(lab, (top,), 6) >= 2
