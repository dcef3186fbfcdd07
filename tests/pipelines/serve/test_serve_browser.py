"""`prefactory serve` in Chromium: every view at two widths, with hostile texts in it."""

import re

import pytest

from pipelines.serve.routes import create_app
from pipelines.serve.site import ROLES
from review import people
from review.store import registry
from tests.pipelines.serve.test_serve import versions
from tests.review.client import serving_app
from tests.review.test_browser import browser, faults, page_of


def views(home):
    """An address of each kind; of rows one with hostile texts, one that was turned round."""
    first, second = versions(home)
    base, newer = (f"/v/talks/{v.manifest.version}" for v in (first, second))
    rows = first.frame("pairs").collect()
    evil = next(
        r["pair_id"] for r in rows.to_dicts() if "alert" in (r["prompt"][0]["content"] or "")
    )
    turned = second.frame("pairs").filter(human_turned=True).collect()["pair_id"].item()
    tie = second.ledger()["row_id"][0]
    return [
        "/", "/runs", "/reviews", "/people", "/d/talks", "/models/talks-reward-1", base, newer,
        f"{base}/ledger", f"{base}/table/pairs", f"{newer}/table/annotations",
        f"{base}/row/{evil}", f"{newer}/row/{turned}", f"{newer}/row/{tie}", f"{newer}/lineage",
        f"{newer}/row/{turned}/lineage", f"/diff?a={first.ref}&b={second.ref}", "/diff",
        f"/search?q={turned[:6]}", f"/search?q={'x' * 500}", "/v/talks/none", f"{base}/report",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
def test_every_view_is_sound_in_a_browser(home, tmp_path, width, scheme):
    known = registry(home.home / "serve", "catalog")
    token = people.invite(known, f"Eve {width}", "owner", ROLES)
    with (
        serving_app(create_app(home, ("127.0.0.1", "localhost"))) as port,
        browser() as opened,
    ):
        page = page_of(opened, width, scheme)
        page.goto(f"http://127.0.0.1:{port}/join/{token}")
        page.keyboard.press("Enter")
        page.wait_for_selector("h1:has-text('Catalog')")
        for number, path in enumerate(views(home)):
            page.goto(f"http://127.0.0.1:{port}{path}")
            missing = [m for m in page.problems if "404" in m]
            page.problems = [m for m in page.problems if m not in missing]
            assert page.problems == [], path
            if not path.endswith("/report"):
                assert faults(page) == [], path
            wide = "document.documentElement.scrollWidth - innerWidth"
            assert page.evaluate(wide) <= 0, path
            name = re.sub(r"[^a-z]+", "-", path.partition("?")[0])
            page.screenshot(path=tmp_path / f"{number:02d}{name}{width}.png", full_page=True)
        page.goto(f"http://127.0.0.1:{port}/d/talks")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert page.evaluate("location.hash") == "#work", "the skip link comes first"
