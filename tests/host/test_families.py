"""The table of families is the only list of them, and each entry says what is true."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

import iclgd_lens
from iclgd_lens.host.families import FAMILIES, convertible, family_of
from tests import checks, families

PACKAGE = Path(iclgd_lens.__file__).parent
needs_hooked = pytest.mark.skipif(
    not families.has_hooked_transformer(), reason="TransformerLens 4 has no HookedTransformer"
)


def test_no_other_module_names_a_family() -> None:
    table = PACKAGE / "host" / "families.py"
    elsewhere = {
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in PACKAGE.rglob("*.py")
        if path != table
        for name in FAMILIES
        if name in path.read_text(encoding="utf-8")
    }
    assert not elsewhere


@pytest.mark.parametrize("architecture", FAMILIES)
def test_entries_name_what_exists(architecture: str) -> None:
    family = family_of(architecture)
    assert family is not None
    assert hasattr(transformers, architecture)
    assert set(family.biases) <= set("QKVO")
    if families.has_hooked_transformer():
        from transformer_lens.pretrained import weight_conversions

        assert hasattr(weight_conversions, family.converter)


@needs_hooked
@pytest.mark.parametrize("name", families.FAMILIES)
def test_biases_and_sizes_are_those_of_the_class(name: str) -> None:
    """What the table says, against the parameters of the `transformers` class itself."""
    original = families.huggingface_model(name)
    family = family_of(type(original).__name__)
    assert family is not None
    host = checks.host("hooked", name)
    first = {site.kind[-1]: site for site in host.sites.values() if site.layer == 0}
    for letter in "QKVO":
        assert (first[letter].bias is not None) == (letter in family.biases), letter
    ours = family.config(host.cfg)
    for attribute in family.sizes.values():
        expected = getattr(original.config, attribute, None)
        if attribute == "n_inner":
            expected = expected or 4 * host.d_model
        assert expected is None or getattr(ours, attribute) == expected


def test_a_class_without_an_entry_has_none() -> None:
    assert family_of("NoSuchForCausalLM") is None
    assert family_of(None) is None
    assert len(convertible()) == len(families.FAMILIES)
