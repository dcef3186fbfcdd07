"""The front door: recipes, runs, audits and readers from Python. Runs on threads, without Prefect.

from prefactory import Recipe, audit, read

audit("my_pairs.jsonl")
version = Recipe("mine", source="my_pairs.jsonl", steps=[filters.Quality()]).run()
version.pairs("train")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel

import prefactory.plan as planning
from audit import Audit, Gates, Options, load, load_gates
from audit import audit as run_checks
from audit.reference import Reference
from catalog.sources import SourceSpec
from catalog.sources.frames import as_frame, save_frame
from catalog.values import load as load_values
from catalog.versions import Catalog, Version, default_home
from filters.contamination.benchmarks import read_benchmark
from pipelines.build import SECTIONS, build, load_recipe, open_sources
from pipelines.judged import Cost, Named
from pipelines.judged import judge as judge_of
from pipelines.preview import Preview
from pipelines.preview import preview as run_preview
from pipelines.settings import Settings, default_workers
from pipelines.training import METHODS, Trained
from pipelines.training import train as run_training
from pipelines.vectors import embedder
from prefactory import recipe as recipes
from prefactory.chat_template import ChatTemplate
from prefactory.engines.accounts import budget_of
from prefactory.engines.encoder import Encoder
from prefactory.errors import ConfigError
from prefactory.stages import common_schema, thread_mapper
from prefactory.step import Step

__all__ = ["Catalog", "Recipe", "Version", "audit", "plan", "preview", "read", "run", "train"]

Pathlike = str | Path


class Recipe(recipes.Recipe):
    """A checked recipe that can run. The same recipe in YAML has the same fingerprint and digest.

    Args:
        name: of the dataset.
        source: a path, glob, URL or hub id; a mapping of the fields of `SourceSpec`; a Polars or
            pandas frame or a `datasets.Dataset` (also as `path` of a mapping), which is saved in
            the home; or a list of these.
        steps: in the order in which they run: steps, names of steps, or `{name: fields}`.
        train: options of trainers (`trainers.EmbeddingReward()`), or `{method: fields}`.
        publish: fields of `Publish`.
        head: `seed`, `version`, `description`, `license`.

    Raises:
        ConfigError: with all mistakes.
    """

    def __init__(
        self,
        name: str,
        *,
        source: object,
        steps: Sequence[Step | str | Mapping[str, Any]] = (),
        train: Sequence[BaseModel | Mapping[str, Any]] = (),
        publish: recipes.Publish | Mapping[str, Any] | None = None,
        **head: Any,  # noqa: ANN401 - checked by `Head`
    ) -> None:
        many = source if isinstance(source, list | tuple) else [source]
        sources = [_source(item) for item in many]
        published = recipes.set_fields(publish) if isinstance(publish, BaseModel) else publish
        data = {
            "name": name,
            **head,
            "source": sources if isinstance(source, list | tuple) else sources[0],
            "steps": list(steps),
            **({"train": [_method(t) for t in train]} if train else {}),
            **({"publish": published} if publish is not None else {}),
        }
        checked = recipes.parse(data, Path.cwd() / str(name), [], SECTIONS)
        vars(self).update(vars(checked))

    @classmethod
    def from_yaml(cls, path: Pathlike, overrides: Iterable[str] = ()) -> Recipe:
        """Read a recipe file; `overrides` are `key=value` words as on the command line.

        Raises:
            ConfigError: with one line per mistake.
        """
        recipe = object.__new__(cls)
        vars(recipe).update(vars(load_recipe(Path(path), list(overrides))))
        return recipe

    def plan(self) -> pl.DataFrame:
        """See `plan`."""
        return plan(self)

    def preview(
        self, rows: int = 3, *, call: bool = False, home: Pathlike | None = None
    ) -> Preview:
        """See `preview`."""
        return preview(self, rows, call=call, home=home)

    def run(self, home: Pathlike | None = None, **settings: Any) -> Version:  # noqa: ANN401
        """See `run`."""
        return run(self, home, **settings)

    def _repr_html_(self) -> str:
        return self.plan()._repr_html_()


def plan(recipe: recipes.Recipe) -> pl.DataFrame:
    """What each step is given and makes: `step`, `kind`, `scope`, `table`, `adds`, `name`.

    Raises:
        ConfigError: a step does not fit its place; with all mistakes.
        DataError: a source can't be read.
    """
    shape, columns = common_schema(open_sources(recipe))
    rows = planning.describe(planning.plan(recipe, shape, columns))
    return pl.DataFrame(rows, schema=dict.fromkeys(planning.DESCRIBED, pl.String))


def preview(
    recipe: recipes.Recipe, rows: int = 3, *, call: bool = False, home: Pathlike | None = None
) -> Preview:
    """What becomes of the first rows; nothing is published.

    Args:
        recipe: what to do.
        rows: how many prompts or pairs to look at.
        call: ask the models; else the preview ends where the first one would be asked.
        home: holds the journal and the vectors; `PREFACTORY_HOME` or `.prefactory` if None.
    """
    return run_preview(recipe, open_sources(recipe), _settings(home), rows, call)


def run(
    recipe: recipes.Recipe,
    home: Pathlike | None = None,
    *,
    workers: int | None = None,
    shard_rows: int = 16384,
    budget_usd: float | None = None,
    budget_tokens: int | None = None,
    budget_name: str | None = None,
    prices: Pathlike | None = None,
    fresh: Iterable[str] = (),
    retry_failed: bool = False,
) -> Version:
    """Run a recipe on threads, publish the result with its report, and train what it asks for.

    Args:
        recipe: what to do.
        home: folder of store, versions and models; `PREFACTORY_HOME` or `.prefactory` if None.
        workers: shards in work at a time.
        shard_rows: rows of a shard, about.
        budget_usd: US dollars that new model calls may cost.
        budget_tokens: tokens that they may use.
        budget_name: of a budget that all runs in the home that name it spend together; `{date}` in
            it stands for the day.
        prices: a YAML file over the prices that come with prefactory.
        fresh: labels of steps that are asked anew.
        retry_failed: drop the answers that could not be used, and ask again for what failed.

    Returns:
        The version: a new one, or the one that holds the same content already.

    Raises:
        PrefactoryError: the recipe does not fit its sources, a step failed, a budget is spent, ...
    """
    budget = budget_of(budget_usd, budget_tokens, budget_name)
    settings = Settings(
        Path(home or default_home()),
        workers or default_workers(),
        shard_rows,
        budget,
        Path(prices) if prices else None,
        tuple(fresh),
        retry_failed,
    )
    sources = open_sources(recipe)
    planning.plan(recipe, *common_schema(sources))
    return build(recipe, sources, settings, thread_mapper(settings.workers)).published.version


def train(
    version: Version | str,
    options: BaseModel,
    *,
    out: Pathlike | None = None,
    table: str = "pairs",
    home: Pathlike | None = None,
) -> Trained:
    """Train a model on a version.

    Args:
        version: the version, or its `NAME` or `NAME@VERSION`.
        options: of a trainer: `trainers.EmbeddingReward()`, `Reward(model=...)`, `DPO(model=...)`.
        out: folder of the model; `models/` in the home if None, where nothing is trained twice.
        table: which table of pairs.
        home: as of `run`.

    Raises:
        ConfigError: these are no options of a trainer, or the version has no such pairs.
    """
    ((method, _),) = _method(options).items()
    settings = _settings(home)
    opened = version if isinstance(version, Version) else settings.catalog[version]
    return run_training(method, options, opened, settings, Path(out) if out else None, table)


def read(data: object, *, table: str | None = None, **fields: Any) -> pl.DataFrame:  # noqa: ANN401
    """Read preference data of any layout into a table of ours (see docs/catalog.md).

    Args:
        data: a path, glob, URL or hub id; `NAME`, `NAME@VERSION`, a version or its folder; a
            Polars or pandas frame, or a `datasets.Dataset`.
        table: table of a version.
        fields: `layout`, `mapping`, `split`, ... as under `source` of a recipe.

    Returns:
        Prompts, responses or pairs, with ids.

    Raises:
        DataError: nothing is there, or no layout fits.
    """
    return load(data, Settings().catalog, table=table, **fields).table


def audit(
    data: object,
    *,
    rows: int | None = None,
    seed: int = 0,
    embeddings: bool = True,
    against: Iterable[str] = (),
    values: str | None = None,
    gates: Gates | Pathlike | None = None,
    table: str | None = None,
    home: Pathlike | None = None,
    progress: Callable[[str], None] | None = None,
    judge: Named | None = None,
    tokenizer: str | None = None,
    reference: str | None = None,
    sample: int = 200,
    budget_usd: float | None = None,
    budget_tokens: int | None = None,
    budget_name: str | None = None,
    prices: Pathlike | None = None,
    approve: Callable[[Cost], None] | None = None,
    **fields: Any,  # noqa: ANN401 - of a SourceSpec
) -> Audit:
    """Look for faults in preference data.

    Args:
        data: as of `read`.
        rows: audit about so many rows, drawn by prompt.
        seed: of all draws.
        embeddings: embed a sample, for separability, topics and diversity.
        against: benchmarks whose prompts must not be in the data.
        values: value system or risk taxonomy whose coverage is measured: a name, or a file.
        gates: what must hold, or a YAML file of it.
        table: table of a version.
        home: as of `run`; holds the vectors, and the journal of the judge.
        progress: told the title of each check before it runs.
        judge: a model that is asked about a sample of the labels, in both orders: an engine's
            configuration, a mapping of its fields, YAML of that, or a file of it.
        tokenizer: model (a folder or a hub id) with whose chat template the pairs are rendered, to
            see what it leaves out or refuses.
        reference: model that is to be trained (a folder or a hub id): how likely the answers are
            under it, beside what it says itself.
        sample: pairs that judge and reference are asked about at most.
        budget_usd: US dollars that its new calls may cost; a budget that might not do stops the
            audit before anything is asked.
        budget_tokens: tokens that they may use.
        budget_name: of a budget that all runs in the home that name it spend together; `{date}` in
            it stands for the day.
        prices: a YAML file over the prices that come with prefactory.
        approve: told what the judge will cost before it is asked (logged if None); what it raises
            ends the audit.
        fields: `layout`, `mapping`, `split`, ... as under `source` of a recipe.

    Returns:
        `findings`, `ok`, `to_json()`, `page`, `save_page(path)`; a notebook shows the findings.
    """
    budget = budget_of(budget_usd, budget_tokens, budget_name)
    settings = replace(_settings(home), budget=budget, prices=Path(prices) if prices else None)
    encoder = Encoder()
    embed = embedder(settings)
    options = Options(
        seed=seed,
        embeddings=embeddings,
        embed=lambda texts: embed(encoder, texts),
        encoder=encoder.model,
        against=tuple(read_benchmark(path) for path in against),
        values=None if values is None else load_values(values),
        judge=None if judge is None else judge_of(judge, settings, sample, approve),
        template=None if tokenizer is None else ChatTemplate.open(tokenizer),
        reference=None if reference is None else _reference(reference, settings, sample),
    )
    limits = gates if gates is None or isinstance(gates, Gates) else load_gates(Path(gates))
    loaded = load(data, settings.catalog, rows, seed, table, **fields)
    return run_checks(loaded.table, options, loaded.intake, limits, progress=progress)


def _reference(model: str, settings: Settings, sample: int) -> Reference:
    from pipelines.training.reference import reference  # torch

    return reference(model, settings, sample)


def _settings(home: Pathlike | None) -> Settings:
    return Settings(Path(home or default_home()))


def _source(data: object) -> Any:  # noqa: ANN401 - plain data of a recipe
    """A source as a recipe file has it; a frame is saved in the home and named by its file."""
    if isinstance(data, SourceSpec):
        return recipes.set_fields(data)
    frame = as_frame(data)
    if frame is not None:
        return str(save_frame(frame, default_home().absolute() / "sources"))
    if isinstance(data, Mapping):
        return {key: _source(value) if key == "path" else value for key, value in data.items()}
    return str(data) if isinstance(data, Path) else data


def _method(options: BaseModel | Mapping[str, Any]) -> Mapping[str, Any]:
    """Options of a trainer as a recipe file has them: `{method: fields}`."""
    if not isinstance(options, BaseModel):
        return options
    names = [name for name, model in METHODS.items() if type(options) is model]
    if not names:
        known = ", ".join(f"trainers.{model.__name__}" for model in METHODS.values())
        raise ConfigError(f"{type(options).__name__} is no trainer's options (of {known})")
    return {names[0]: recipes.set_fields(options)}
