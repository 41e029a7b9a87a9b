"""A run directory that is looked at and left as it is."""

from __future__ import annotations

import os

from iclgd_lens.bench.store import Quarantined, Store


class ReadOnlyStore(Store):
    """A store that notes damaged files and leaves them where they are."""

    def quarantine(self, name: str, reason: str) -> None:
        """Note what is wrong with a file."""
        self.quarantined.append(Quarantined(name, reason, name))


def measured_seconds(where: str | os.PathLike[str]) -> dict[str, float]:
    """Return the seconds that cells of a run took, by key; how fast one failed says nothing."""
    store = ReadOnlyStore(where)
    failed = store.files.names("failed")
    return {
        key: float(seconds)
        for facts in store.invocations()
        for key, seconds in facts["cells"].items()
        if f"{key}.json" not in failed
    }
