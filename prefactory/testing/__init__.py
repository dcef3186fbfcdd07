"""For tests of steps, ours and yours: small readable tables, one step applied, its invariants."""

from prefactory.testing.applied import Applied, apply_step, fitted, verdicts, word_vectors
from prefactory.testing.invariants import broken_invariants, check_step
from prefactory.testing.tables import (
    assistant,
    example,
    messages,
    pairs,
    prompts,
    responses,
    system,
    texts,
    turned,
    user,
)

__all__ = [
    "Applied",
    "apply_step",
    "assistant",
    "broken_invariants",
    "check_step",
    "example",
    "fitted",
    "messages",
    "pairs",
    "prompts",
    "responses",
    "system",
    "texts",
    "turned",
    "user",
    "verdicts",
    "word_vectors",
]
