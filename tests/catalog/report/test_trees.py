"""Reading published search trees, and showing them as HTML."""

import json
import re

import polars as pl
import pytest

from catalog.report import tree_page
from catalog.report.trees import SearchTree
from prefactory.errors import DataError

EVIL = '<script>alert("x")</script> & "quotes" \u0007 \u202e'


def node(parent, action, text, mean, visits=1, **more):
    scores = [] if mean is None else [mean]
    return {
        "parent": parent, "action": action, "text": text, "mean": mean, "visits": visits,
        "scores": scores, **more,
    }  # fmt: skip


def data(**more):
    nodes = [
        node(None, "root", f"raw {EVIL}", 1.0, 4),
        node(0, "clarity", "raw and clear", 2.0, 3, fresh=[2.5, 3.5]),
        node(0, "tone", "raw, please", None, 1),
        node(1, "tone", "raw and clear, please", 4.0, 2, responses=[EVIL]),
        node(3, EVIL, "raw and clear, please, now", 3.0),
    ]
    return {"nodes": nodes, "best": 3, "chosen": 4, "rejected": 0, "sd": 0.5, "rng": {}, **more}


def tree(**more):
    return SearchTree.model_validate_json(json.dumps(data(**more)))


def kept(**more):
    return tree_page.Kept("p" * 32, "file:1", tree(**more))


def test_a_tree_and_the_way_to_its_chosen_node():
    found = tree()
    assert found.children == [[1, 2], [3], [], [4], []]
    assert found.depths == [0, 1, 1, 2, 3]
    assert found.marked == {4, 3, 1, 0}
    assert tree(chosen=None).marked == {3, 1, 0}
    assert (found.range, [found.share(i) for i in range(5)]) == (
        (1.0, 4.0),
        [0, 1 / 3, 0, 1, 2 / 3],
    )
    assert found.nodes[1].fresh_mean == 3.0
    flat = tree(nodes=[node(None, "root", "x", 2.0)], best=0, chosen=None, rejected=None)
    assert flat.share(0) == 0.0


@pytest.mark.parametrize(
    "broken",
    [
        {"nodes": []},
        {"best": 5},
        {"chosen": -1},
        {"nodes": [node(0, "root", "x", 1.0)], "best": 0, "chosen": None, "rejected": None},
        {"nodes": [node(None, "root", "x", 1.0), node(1, "a", "y", 1.0)], "best": 0, "chosen": 0},
        {"nodes": [node(None, "root", "x", 1.0, -1)], "best": 0, "chosen": 0},
    ],
)
def test_what_is_no_tree_is_refused(broken):
    with pytest.raises(ValueError, match=r"node|least|greater"):
        tree(**broken)


def test_the_page_is_self_contained_and_escapes_everything():
    html = tree_page.page([kept()], "x@1 <b>")
    assert html == tree_page.page([kept()], "x@1 <b>")
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "x@1 &lt;b&gt;" in html
    assert "\u0007" not in html
    assert not re.findall(r"(?:src|href)=[\"'](?!data:|#)", html)
    assert "default-src &#39;none&#39;; style-src &#39;sha256-" in html
    assert html.count("<circle") == 5
    assert html.count('class="edge marked"') == 3
    assert html.count("<details open>") == 4  # the way to the chosen node
    assert "measured again 2.500, 3.500, mean 3.000" in html


def test_the_picture_places_parents_between_their_children():
    picture = tree_page.picture(tree())
    x = [float(v) for v in re.findall(r'cx="([\d.]+)"', picture)]
    y = [float(v) for v in re.findall(r'cy="([\d.]+)"', picture)]
    assert x[0] == (x[1] + x[2]) / 2
    assert x[1] == x[3] == x[4] < x[2]
    assert y[0] < y[1] == y[2] < y[3] < y[4]


def test_a_long_chain_is_drawn_without_end_of_the_stack():
    nodes = [node(None, "root", "x", 0.0)]
    nodes += [node(i, "tone", f"x {i}", float(i)) for i in range(500)]
    html = tree_page.page([kept(nodes=nodes, best=500, chosen=500)], "deep")
    assert html.count("<circle") == 501


def test_an_excerpt_shows_what_changed():
    found = tree(
        nodes=[
            node(None, "root", "Please write a long letter to my landlord.", 1.0),
            node(0, "tone", "Please write a long letter to my landlord. Be kind.", 2.0),
            node(0, "a", "Write it.", 2.0),
            node(0, "b", "Please write a long letter to my landladies.", 2.0),
        ],
        best=1, chosen=1,
    )  # fmt: skip
    shown = [tree_page.changed(found, place, 30) for place in range(4)]
    assert shown == [
        "Please write a long letter to…",
        "… Be kind.",
        "Write it.",
        "… landladies.",
    ]


def test_a_damaged_column_names_its_prompt(monkeypatch):
    from catalog.report import trees

    rows = pl.DataFrame(
        {"parent_id": ["p1"], "prompt_id": ["p2"], "source_id": ["s"], "tree": ['{"nodes": 3}']}
    )
    monkeypatch.setattr(trees, "_table", lambda version: "pairs")
    monkeypatch.setattr(trees, "_rows", lambda version, table, prompt: iter([rows]))
    with pytest.raises(DataError, match="prompt p1 holds no search tree: nodes: "):
        trees.read_trees(None)
