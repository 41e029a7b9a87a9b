"""Protocols: presets, what they refuse, and what survives JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from iclgd_lens.errors import ProtocolError
from iclgd_lens.protocol import DEFAULT, EOS, PROTOCOLS, REFERENCE, Protocol, get_protocol
from tests import checks


def test_the_presets_are_what_the_method_says() -> None:
    assert DEFAULT.readout == "last_prompt_token"
    assert REFERENCE.readout == "first_label_word"
    for preset in (DEFAULT, REFERENCE):
        assert preset.loss_on == "all"
        assert preset.trained == ("W_K", "b_K", "W_V", "b_V")
        assert (preset.order, preset.bos, preset.query_seed) == ("prompt", True, 1)
        assert preset.normalize_attention_output
        assert preset.sim_am == "difference"
    assert REFERENCE.separator == EOS
    assert not REFERENCE.strip
    assert not REFERENCE.skip_repeated  # the published runs evaluate every row that is drawn
    assert set(PROTOCOLS) == {"default", "reference"}
    assert get_protocol("reference") is REFERENCE
    assert get_protocol(DEFAULT) is DEFAULT


@pytest.mark.parametrize("protocol", [DEFAULT, REFERENCE, DEFAULT.replace(trained=("W_Q",))])
def test_json_gives_back_the_protocol(protocol: Protocol) -> None:
    text = json.dumps(protocol.as_dict())
    again = Protocol.from_dict(json.loads(text))
    assert again == protocol
    assert again.hash == protocol.hash
    assert hash(again) == hash(protocol)
    assert Protocol.from_dict({}) == DEFAULT


CHANGES: list[dict[str, Any]] = [
    {"readout": "first_label_word"}, {"loss_on": "label"}, {"separator": "\n\n"}, {"bos": False},
    {"trained": ("W_V",)}, {"order": "drawn"}, {"balanced": True}, {"query_seed": 2},
    {"skip_repeated": False}, {"strip": False}, {"normalize_attention_output": False},
    {"sim_am": "raw"},
]  # fmt: skip


def test_every_field_but_the_name_changes_the_hash() -> None:
    fields = {field.name for field in dataclasses.fields(Protocol)}
    assert {name for change in CHANGES for name in change} == fields - {"name"}
    hashes = {DEFAULT.hash, *(DEFAULT.replace(**change).hash for change in CHANGES)}
    assert len(hashes) == len(CHANGES) + 1
    assert all(len(value) == 16 for value in hashes)
    assert DEFAULT.replace(name="mine").hash == DEFAULT.hash


def test_a_changed_preset_no_longer_has_its_name() -> None:
    assert DEFAULT.replace(bos=False).name == "custom"
    assert DEFAULT.replace(bos=False, name="mine").name == "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"readout": "last"}, r"Protocol\.readout is 'last'; allowed: last_prompt_token, first_l"),
        ({"loss_on": "labels"}, r"Protocol\.loss_on is 'labels'.* Did you mean 'label'\?"),
        ({"order": "random"}, r"Protocol\.order is 'random'; allowed: prompt, drawn"),
        ({"sim_am": "diff"}, r"Protocol\.sim_am is 'diff'"),
        ({"trained": ("W_K", "W_VV")}, r"Protocol\.trained is 'W_VV'.* Did you mean 'W_V'\?"),
        ({"trained": ()}, r"Protocol\.trained is empty"),
        ({"bos": "yes"}, r"Protocol\.bos is 'yes'; input should be a valid boolean"),
        ({"query_seed": -1}, r"Protocol\.query_seed must be 0 or more, not -1"),
        ({"query_seed": 2**70}, r"Protocol\.query_seed must be at most 2\*\*63 - 1"),
        ({"trained": 3}, r"Protocol\.trained is 3; allowed: W_Q"),
        ({"readot": "x"}, r"Protocol has no field 'readot'; .* Did you mean 'readout'\?"),
    ],
)
def test_what_is_not_allowed_is_refused(change: dict[str, Any], message: str) -> None:
    for build in (DEFAULT.replace, lambda **fields: Protocol.from_dict(fields)):
        with checks.untyped(), pytest.raises(ProtocolError, match=message) as caught:
            build(**change)
        assert "\n" not in str(caught.value)


def test_one_weight_may_be_named_without_a_tuple() -> None:
    with checks.untyped():
        assert DEFAULT.replace(trained="W_K").trained == ("W_K",)
        assert DEFAULT.replace(trained=["W_K", "W_V"]).trained == ("W_K", "W_V")


def test_an_unknown_preset_is_answered_with_the_nearest() -> None:
    with pytest.raises(ProtocolError, match=r"'refrence'; presets: .* Did you mean 'reference'\?"):
        get_protocol("refrence")


def test_protocols_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DEFAULT.bos = False  # type: ignore[misc]
