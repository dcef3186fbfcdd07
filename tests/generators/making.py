"""Steps that make rows, applied to small tables, and cut into shards of any size."""

from prefactory.apply import apply_generator
from prefactory.tables import Shape
from prefactory.testing.applied import word_vectors
from tests.generators.sampling import asked_run
from tests.helpers import asking, content, digest, recipe


def made(step, table, shape=Shape.PROMPTS, seed=0):
    """Rows and ledger of a step, after its fit if it has one."""
    name = f"generators.{type(step).__name__}"
    ctx = asking(seed, name, embed=word_vectors)
    if step.scope == "dataset":
        state = step.fit(step.fit_shard(table, ctx).sort("prompt_id"), ctx)
        ctx = asking(seed, name, state=state, embed=word_vectors)
    return apply_generator(step, name, table, shape, ctx)


def reasons(dropped, table):
    """Text of each dropped prompt -> reason."""
    names = dict(zip(table["prompt_id"], content(table, "prompt"), strict=True))
    return {names[i]: r for i, r in dropped.select("row_id", "reason").iter_rows()}


def cut_anyhow(step, table, folder):
    """Run a step with shards of 1, 5 and 1000 rows, forwards and backwards: digests of the runs."""
    plan = recipe(step)
    cuts = [(table, 1000), (table, 1), (table[::-1], 5)]
    return {
        digest(asked_run(plan, t, folder / str(i), size, 2)) for i, (t, size) in enumerate(cuts)
    }
