"""What a training run says: the report, the model card and `training.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from prefactory.pages.page import environment, render
from trainers.base import DatasetRef, package_versions, write_json
from trainers.metrics import PairMetrics
from trainers.objectives.frontier import Frontier

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Said:
    """An answer.

    Attributes:
        text: without special tokens.
        cut: it was still going on at the limit of tokens.
    """

    text: str
    cut: bool


@dataclass(frozen=True)
class Compared:
    """One prompt with both answers.

    Attributes:
        prompt: its messages, each `role` and `content`.
        before: of the model that training began with.
        after: of the trained one.
    """

    prompt: list[dict[str, str]]
    before: Said
    after: Said


@dataclass(frozen=True)
class TrainingReport:
    """Result of one training.

    Attributes:
        method: `embedding-reward`, `dpo` or `reward`.
        folder: where the model is.
        dataset: what it was trained on.
        config: the settings, as plain data.
        train: metrics on the training pairs, if they were measured.
        test: metrics on the held-out pairs; None if there are none.
        dropped: reason -> number of pairs that were not used.
        facts: other numbers of the run (regularisation, loss, steps).
        notes: what a reader must know, one sentence each.
        answers: of the model before and after training, if it writes texts.
        frontier: what policies for other weights of the objectives reach.
    """

    method: str
    folder: Path
    dataset: DatasetRef
    config: Mapping[str, Any]
    train: PairMetrics | None
    test: PairMetrics | None
    dropped: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    answers: tuple[Compared, ...] = ()
    frontier: Frontier | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data, without paths: the same training gives the same data everywhere."""
        return {
            "method": self.method,
            "dataset": {
                "name": self.dataset.version.manifest.name,
                "version": self.dataset.version.manifest.version,
                "content_digest": self.dataset.digest,
                "table": self.dataset.table,
            },
            "config": dict(self.config),
            "metrics": {
                "train": asdict(self.train) if self.train else None,
                "test": asdict(self.test) if self.test else None,
            },
            "dropped": dict(self.dropped),
            "facts": dict(self.facts),
            "notes": list(self.notes),
            "answers": [asdict(compared) for compared in self.answers],
            **({"frontier": self.frontier.as_dict()} if self.frontier else {}),
        }

    def text(self) -> str:
        """A few lines for a terminal."""
        lines = [f"{self.method} on {self.dataset} (digest {self.dataset.digest[:12]})"]
        for name, metrics in (("train", self.train), ("held out", self.test)):
            if metrics is not None:
                lines += [f"  {name:<9}{row}" for row in _rows(metrics)]
        lines += [f"  dropped  {n} pairs: {reason}" for reason, n in self.dropped.items() if n]
        lines += [f"  {key}: {value:g}" for key, value in self.facts.items()]
        lines += [f"  note     {note}" for note in self.notes]
        lines += [f"  frontier {line}" for line in (self.frontier.lines() if self.frontier else [])]
        lines += [f"  answers  {sentence}" for sentence in self._changed()]
        return "\n".join([*lines, f"  model    {self.folder}", f"  report   {self.page}"])

    @property
    def page(self) -> Path:
        """The page to open in a browser."""
        return self.folder / "report.html"

    def _changed(self) -> list[str]:
        n = sum(a.before != a.after for a in self.answers)
        return (
            [f"{n} of {len(self.answers)} are others than before training"] if self.answers else []
        )


def _rows(m: PairMetrics) -> list[str]:
    return [
        f"{m.pairs} pairs of {m.prompts} prompts: accuracy {m.accuracy:.3f} +- "
        f"{m.accuracy_se:.3f}, loss {m.loss:.4f}, mean margin {m.margin:.3f}",
        f"calibration: ECE {m.ece:.3f}, ACE {m.ace:.3f}, MCE {m.mce:.3f}",
        f"baselines: longer wins {m.longer_wins:.3f} +- {m.longer_wins_se:.3f}, "
        f"always the first {m.always_first:.3f} +- {m.always_first_se:.3f}",
    ]


_METRICS = """\
| on | pairs | prompts | accuracy | loss | ECE | ACE | MCE | longer wins | always the first |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|
"""


_LEGEND = """
Accuracy is the share of pairs whose chosen answer scores higher (a tie counts one half), with its
standard error by prompt. ECE, ACE and MCE are calibration errors over both orders of every pair, 10
bins. "Longer wins" and "always the first" are rules that read nothing, on the same pairs.
"""


def _metrics_row(name: str, m: PairMetrics) -> str:
    cells = [
        name,
        f"{m.pairs} | {m.prompts} | {m.accuracy:.3f} ± {m.accuracy_se:.3f}",
        f"{m.loss:.4f} | {m.ece:.3f} | {m.ace:.3f} | {m.mce:.3f}",
        f"{m.longer_wins:.3f} ± {m.longer_wins_se:.3f}",
        f"{m.always_first:.3f} ± {m.always_first_se:.3f}",
    ]
    return f"| {' | '.join(cells)} |\n"


def card(report: TrainingReport, what: str, use: str, library: str, tags: list[str]) -> str:
    """Write the model card.

    Args:
        report: the run.
        what: one paragraph: what the model is and what it was trained from.
        use: Markdown that shows how to use it.
        library: `library_name` of the card.
        tags: tags of the card.
    """
    data = report.dataset
    rows = [("training pairs", report.train), ("held-out pairs", report.test)]
    table = "".join(_metrics_row(name, m) for name, m in rows if m is not None)
    dropped = [f"{n} pairs were not used: {why}." for why, n in report.dropped.items() if n]
    reached = report.frontier.lines() if report.frontier else []
    remarks = "".join(f"- {line}\n" for line in [*dropped, *report.notes, *reached])
    settings = "".join(f"- `{k}`: `{v}`\n" for k, v in sorted(report.config.items()))
    licenses = ", ".join(data.version.licenses()) or "not stated"
    return (
        f"---\nlibrary_name: {library}\ntags:\n"
        + "".join(f"- {tag}\n" for tag in ["prefactory", *tags])
        + f"---\n\n# {report.method} on {data}\n\n{what}\n\n## Data\n\n"
        f"Dataset `{data}`, content digest `{data.digest}`, made by the recipe with the"
        f" fingerprint `{data.version.manifest.recipe_fingerprint or 'unknown'}`. Licences of the"
        f" data: {licenses}.\n\n"
        "## Results\n\n"
        + (_METRICS + table + _LEGEND if table else "Not measured on pairs.\n")
        + (f"\n{remarks}" if remarks else "")
        + f"\n## Use\n\n{use}\n\n## Settings\n\n{settings}"
    )


def _table(data: DatasetRef) -> str:
    return "" if data.table == "pairs" else f" --table {data.table}"


def loading(config: Mapping[str, Any], task: str, options: str = "") -> tuple[str, str]:
    """The package of a trained transformer, or of its adapter, and the Python that loads it."""
    package = "peft" if config["lora"] else "transformers"
    loader = f"Auto{'Peft' if config['lora'] else ''}ModelFor{task}"
    return package, (
        f"from {package} import {loader}\nfrom transformers import AutoTokenizer\n\n"
        f'model = {loader}.from_pretrained("path/of/this/folder"{options})\n'
        'tokenizer = AutoTokenizer.from_pretrained("path/of/this/folder")\n'
    )


def transformer_card(report: TrainingReport, about: str, task: str, outputs: int = 1) -> str:
    """The card of a trained transformer.

    Args:
        report: the run.
        about: what was done, after the name of the model that it began with.
        task: `CausalLM`, `SequenceClassification` or `TokenClassification`.
        outputs: of the head, where there is one.
    """
    policy = task == "CausalLM"
    package, code = loading(report.config, task, "" if policy else f", num_labels={outputs}")
    if task == "SequenceClassification":
        code += (
            "inputs = tokenizer.apply_chat_template(\n"
            '    prompt + answer, return_tensors="pt", return_dict=True\n)\n'
            "scores = model(**inputs).logits[0]\n"
        )
    kind = report.method if policy else "reward-model"
    command = f"prefactory train {report.method} {report.dataset}{_table(report.dataset)}"
    what = f"`{report.config['model']}`, {about}\n\n```bash\n{command} --config train.yaml\n```"
    use = _STEERED if report.method == "yapo" else f"```python\n{code}```"
    if task == "TokenClassification":
        use += _STEPS
    return card(report, what, use, package, ["trl", kind])


_STEERED = """`steering.safetensors` is the vector. The engine adds it to the layer's output:

```yaml
{engine: steered, model: the model named above, vector: path/of/this/folder, strength: 1.0}
```"""
"""How a steering vector is used."""


_STEPS = """

Each step is followed by the configuration's `step_separator` and read at its last token: softmax,
the second output is P(right). A recipe scores the steps of answers with it:

```yaml
- labelers.StepScores: {model: {model: path/of/this/folder}}
```"""
"""How a process reward model is used."""


def write_options(folder: Path, method: str, config: BaseModel) -> None:
    """Write `train.yaml`: what was set, as `prefactory train METHOD NAME --config` reads it."""
    given = config.model_dump(mode="json", include=config.model_fields_set)
    text = f"# prefactory train {method} ... --config train.yaml\n{yaml.safe_dump(given)}"
    (folder / "train.yaml").write_text(text, encoding="utf-8")


def page(report: TrainingReport) -> str:
    """Write the report as one HTML page that loads nothing; every text of the data is escaped."""
    return render(
        environment(HERE, {}),
        "report.html.j2",
        [HERE / "report.css"],
        [],
        report=report,
        sets=[
            (n, m)
            for n, m in (("training pairs", report.train), ("held-out pairs", report.test))
            if m
        ],
        settings=sorted(report.config.items()),
        changed=sum(a.before != a.after for a in report.answers),
    )


def write_reports(folder: Path, report: TrainingReport, text: str, packages: list[str]) -> None:
    """Write `README.md` (the card), `training.json` and `report.html` into the model's folder."""
    (folder / "README.md").write_text(text, encoding="utf-8")
    (folder / "report.html").write_text(page(report), encoding="utf-8")
    versions = package_versions("prefactory", "datasets", "polars", *packages)
    write_json(folder / "training.json", {**report.as_dict(), "packages": versions})
