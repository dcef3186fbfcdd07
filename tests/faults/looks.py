"""All that reads a home: commands, and pages of `prefactory serve`."""

import contextlib
import io
import os
import traceback
from pathlib import Path

COMMANDS = [
    ("catalog", "list"),
    ("catalog", "show", "talks"),
    ("catalog", "verify"),
    ("catalog", "diff", "talks@{first}", "talks@{last}"),
    ("catalog", "drift", "talks"),
    ("catalog", "lineage", "talks", "--row", "Question 3?"),
    ("catalog", "models"),
    ("catalog", "gc"),
    ("explain", "talks", "Question 3?"),
    ("export", "talks", "--layout", "trl", "--out", "{home}/../exported"),
    ("review", "status", "{review}"),
    ("journal",),
    ("budgets",),
]
PAGES = [
    "/", "/runs", "/reviews", "/models/talks-reward-1", "/d/talks", "/v/talks/{last}",
    "/v/talks/{last}/report", "/v/talks/{last}/table/pairs", "/people",
    "/diff?a=talks@{first}&b=talks@{last}",
]  # fmt: skip


def look(home):
    """What each says: (what, its exit code or HTTP status, its words); code None: an exception."""

    home = Path(home)
    os.environ["PREFACTORY_HOME"] = str(home)
    folders = sorted(p.name for p in (home / "versions" / "talks").iterdir() if p.is_dir())
    reviews = [p.name for p in (home / "reviews").iterdir()]
    names = {"first": folders[0], "last": folders[-1], "home": home, "review": reviews[0]}
    found = [
        (" ".join(words), *_command([word.format(**names) for word in words])) for words in COMMANDS
    ]
    found += [(path, *told) for path, told in _pages(home, names)]
    # the pipe to the driver holds 64 kB, and what failed is said at the end
    return [(what, code, text[-900:]) for what, code, text in found]


def _command(words):
    from pipelines.cli.app import app
    from prefactory.errors import PrefactoryError

    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = app(words, standalone_mode=False)
    except PrefactoryError as error:
        return error.exit_code, f"{out.getvalue()}\n{error}"
    except SystemExit as stop:
        return stop.code, out.getvalue()
    except Exception:
        return None, traceback.format_exc()
    return (code if isinstance(code, int) else 0), out.getvalue()


def _pages(home, names):
    from starlette.testclient import TestClient

    from pipelines.serve.routes import create_app
    from pipelines.settings import Settings

    token = (home / "token").read_text()
    try:
        client = TestClient(create_app(Settings(home), None), "http://127.0.0.1")
        client.post(f"/join/{token}", follow_redirects=False)
    except Exception:
        return [("/join", (None, traceback.format_exc()))]
    told = []
    for path in PAGES:
        try:
            answer = client.get(path.format(**names))
        except Exception:
            told.append((path, (None, traceback.format_exc())))
        else:
            told.append((path, (answer.status_code, answer.text)))
    return told
