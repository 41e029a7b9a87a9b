"""The names of the package: what they are, whatever was imported first."""

from __future__ import annotations

import subprocess
import sys

import pytest

import iclgd_lens as lens


def test_every_public_name_is_there() -> None:
    for name in lens.__all__:
        assert getattr(lens, name) is not None
    assert set(lens.__all__) <= set(dir(lens))
    with pytest.raises(AttributeError, match="has no attribute 'compar'"):
        lens.compar  # noqa: B018


@pytest.mark.parametrize(
    "first",
    ["lens.CONTROLS", "import iclgd_lens.comparing", "from iclgd_lens.comparing import compare"],
)
def test_compare_is_the_function_whatever_came_first(first: str) -> None:
    code = f"import iclgd_lens as lens\n{first}\nassert lens.compare.__name__ == 'compare'\n"
    code += "assert type(lens.compare).__name__ == 'function', lens.compare\n"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_libraries_that_are_loaded_late_draw_nothing_from_the_callers_generator() -> None:
    """Rich draws a number as it is imported, and tables are first made within a call."""
    code = (
        "import random, sys\nimport iclgd_lens\nassert 'rich.style' not in sys.modules\n"
        "before = random.getstate()\nimport iclgd_lens.results.display\n"
        "assert 'rich.style' in sys.modules\nassert random.getstate() == before\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
