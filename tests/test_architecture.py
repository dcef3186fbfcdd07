"""The shape of the packages: no circle, one way of imports, folders by idea and of a size."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = (
    "prefactory", "catalog", "generators", "filters", "labelers", "trainers", "audit",
    "review", "pipelines",
)  # fmt: skip
LAYERS = (
    {"pipelines"}, {"audit", "review"}, {"generators", "filters", "labelers", "trainers"},
    {"catalog"}, {"prefactory"},
)  # fmt: skip
MOST_MODULES = 25
REGISTRIES = ("audit/checks", "catalog/sources/layouts")
"""Folders where one file is one check, or one layout: they may hold as many as there are."""


@pytest.fixture
def graph():
    return grimp.build_graph(*PACKAGES, exclude_type_checking_imports=False)


def circles(imports):
    """Sets of modules that import each other, by Tarjan's algorithm without recursion."""
    index, low, stack, on_stack, groups = {}, {}, [], set(), []
    for root in sorted(imports):
        work = [(root, iter(sorted(imports[root])))] if root not in index else []
        if work:
            index[root] = low[root] = len(index)
            stack.append(root)
            on_stack.add(root)
        while work:
            module, rest = work[-1]
            for other in rest:
                if other not in index:
                    index[other] = low[other] = len(index)
                    stack.append(other)
                    on_stack.add(other)
                    work.append((other, iter(sorted(imports[other]))))
                    break
                if other in on_stack:
                    low[module] = min(low[module], index[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[module])
                if low[module] == index[module]:
                    group = set()
                    while module not in group:
                        group.add(stack.pop())
                    on_stack -= group
                    groups += [sorted(group)] if len(group) > 1 else []
    return groups


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}) == [["a", "b", "c"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": set()}) == []


def test_no_import_circle_not_even_in_functions_or_under_type_checking(graph):
    imports = {m: graph.find_modules_directly_imported_by(m) for m in graph.modules}
    assert circles(imports) == []


def test_imports_point_one_way_but_for_the_front_door(graph):
    for module in graph.find_modules_directly_imported_by("prefactory"):
        graph.remove_import(importer="prefactory", imported=module)
    wrong = graph.find_illegal_dependencies_for_layers(layers=LAYERS)
    assert [f"{d.importer} -> {d.imported}" for d in wrong] == []


def modules():
    """Folder -> names of its own modules, without `__init__`."""
    found = defaultdict(list)
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.stem != "__init__":
                found[path.parent.relative_to(ROOT).as_posix()].append(path.stem)
    return found


def test_no_folder_of_modules_holds_too_many():
    sizes = {f: len(names) for f, names in modules().items() if f not in REGISTRIES}
    assert {f: n for f, n in sizes.items() if n > MOST_MODULES} == {}


def test_no_family_of_files_shares_a_prefix_where_a_folder_should_be():
    families = {
        f"{folder}/{prefix}_*": count
        for folder, names in modules().items()
        for prefix, count in Counter(n.partition("_")[0] for n in names).items()
        if count >= 3 and folder not in REGISTRIES
    }
    assert families == {}
