"""The tiny plans and the finished run of the benchmark's own tests."""

from __future__ import annotations

from tests.bench.conftest import (  # noqa: F401
    data_folder,
    fields,
    finished,
    model_folder,
    plan,
    plugins,
    small,
)
