"""What goes with calls that are erased: what was said of them, and what learning keeps that knows them."""

from __future__ import annotations

from collections.abc import Collection

from shoal.agents.feedback.learning_runs import SqlLearningRuns, process_of
from shoal.agents.learning.forgetting import forget_erased
from shoal.agents.registry.store import SqlRegistry
from shoal.home import Home


def after_erasure(home: Home, registry: SqlRegistry, gone: Collection[str]) -> list[str]:
    """Forget what depends on these calls. Returns the refused versions and unfinished trainings that went; see `forget_erased`."""
    if not gone:
        return []
    registry.delete_feedback(gone)
    run = SqlLearningRuns(registry.database).running()
    learning = run is not None and process_of(run) is not None
    return forget_erased(home, registry.versions(), learning=learning)
