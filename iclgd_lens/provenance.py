"""What results record about libraries."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("iclgd-lens", "torch", "transformer-lens", "transformers", "tokenizers")
"""Libraries that numbers depend on."""


def library_versions() -> dict[str, str]:
    """Versions of Python and of what numbers depend on."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
