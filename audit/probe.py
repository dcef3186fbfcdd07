"""Linear probes of chosen against rejected answers, with their accuracy and its interval.

The probes are `prefactory.preferences.probe`; what they read of looks, `filters.content.looks`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from audit.finding import Metric
from audit.stats import auc, share
from prefactory.preferences.probe import (
    Columns,
    Floats,
    Ints,
    paired_decisions,
    pointwise_decisions,
)

FOLDS = 5


@dataclass(frozen=True)
class Probe:
    """What a probe achieves on prompts that it never saw.

    Attributes:
        accuracy: share judged right (a tie counts one half).
        area: AUC of the decision values.
        decision: decision value of every row, above 0 for chosen; paired: of every pair, above 0
            where the probe agrees with the label.
    """

    accuracy: Metric
    area: Metric
    decision: Floats


def paired(chosen: Columns, rejected: Columns, folds: Ints, prompts: Ints) -> Probe:
    """Tell which of two answers was chosen from the difference of their columns.

    Args:
        chosen: n answers.
        rejected: the answers that they were chosen over.
        folds: fold of every pair.
        prompts: prompt number of every pair.
    """
    decision = paired_decisions(chosen, rejected, folds)
    right = (np.sign(decision) + 1) / 2
    both = np.concatenate([decision, -decision])
    truth = np.arange(both.size) < decision.size
    return Probe(share(right, prompts), auc(both, truth, np.unique(prompts).size), decision)


def pointwise(columns: Columns, label: NDArray[np.bool_], folds: Ints, prompts: Ints) -> Probe:
    """Tell chosen from rejected answers one at a time.

    Args:
        columns: n answers.
        label: whether each was chosen.
        folds: fold of every answer.
        prompts: its prompt number.
    """
    decision = pointwise_decisions(columns, label, folds)
    right = np.where(decision == 0, 0.5, (decision > 0) == label)
    return Probe(share(right, prompts), auc(decision, label, np.unique(prompts).size), decision)
