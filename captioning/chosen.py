"""Which clips captioning looks at: those of a selection, or some that are named."""

from collections.abc import Sequence

from infra.store.choose import selected_sql
from infra.store.selection import Selection

Chosen = Selection | Sequence[str]
"""A selection, or the ids of a few clips."""


def chosen_sql(chosen: Chosen) -> tuple[str, list[object]]:
    """Return a SELECT of columns of the clips table, and its parameters in order."""
    if isinstance(chosen, Selection):
        return selected_sql(chosen)
    return "SELECT * FROM clips WHERE clip_id IN (SELECT unnest(?::VARCHAR[]))", [list(chosen)]
