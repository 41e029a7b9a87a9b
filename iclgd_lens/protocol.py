"""Every choice that changes a number, in one frozen dataclass.

A `Protocol` travels with each episode and is written into each result. Two results whose
protocols differ do not measure the same thing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import AfterValidator, BeforeValidator
from pydantic.dataclasses import dataclass

from iclgd_lens.errors import ProtocolError, nearest
from iclgd_lens.validation import STRICT, check_seed, own_message, validated

EOS = "<eos>"
"""Value of `Protocol.separator` that stands for the tokenizer's end-of-sequence token."""

ReadoutToken = Literal["last_prompt_token", "first_label_word"]
LossOn = Literal["all", "label"]
Order = Literal["prompt", "drawn"]
SimAM = Literal["difference", "raw"]

Weight = Literal[
    "W_Q", "b_Q", "W_K", "b_K", "W_V", "b_V", "W_O", "b_O",
    "W_in", "b_in", "W_gate", "b_gate", "W_out", "b_out",
]  # fmt: skip
TRAINABLE: tuple[str, ...] = get_args(Weight)

_ALLOWED: Mapping[str, tuple[str, ...]] = {
    "readout": get_args(ReadoutToken),
    "loss_on": get_args(LossOn),
    "order": get_args(Order),
    "sim_am": get_args(SimAM),
    "trained": TRAINABLE,
}


def _fault(fault: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    field, value = str(fault["loc"][0]), fault.get("input")
    if fault["type"] == "unexpected_keyword_argument":
        known = [each.name for each in dataclasses.fields(Protocol)]
        return f"Protocol has no field {field!r}; it has {', '.join(known)}.{nearest(field, known)}"
    if own := own_message(fault):
        return own
    if field in _ALLOWED:
        allowed = _ALLOWED[field]
        return (
            f"Protocol.{field} is {value!r}; allowed: {', '.join(allowed)}."
            f"{nearest(str(value), allowed)}"
        )
    message = str(fault["msg"])
    return f"Protocol.{field} is {value!r}; {message[0].lower()}{message[1:]}."


def _weights(trained: object) -> object:
    # One weight may be named without a tuple; its letters are no weights.
    if isinstance(trained, str):
        return (trained,)
    return tuple(cast("list[object]", trained)) if isinstance(trained, list) else trained


def _some(trained: tuple[str, ...]) -> tuple[str, ...]:
    if not trained:
        raise ValueError("Protocol.trained is empty: name at least one weight, as 'W_K'.")
    return trained


def _query_seed(seed: int) -> int:
    return check_seed(seed, "Protocol.query_seed", ProtocolError)


@validated(ProtocolError, _fault)
@dataclass(frozen=True, kw_only=True, config=STRICT)
class Protocol:
    """How an episode is written, trained on, read and scored.

    Attributes:
        name: What results call this protocol.
        readout: The token at which activations are read. `"last_prompt_token"` is the token whose
            next-token distribution is the prediction; `"first_label_word"` appends the first label
            word, whatever the gold label, and reads there, as the paper's implementation does.
        loss_on: Tokens whose negative log-likelihood the updates minimise.
        separator: Text between demonstrations, `EOS` for the end-of-sequence token, or `""`.
        bos: Whether each sequence begins with the beginning-of-sequence token.
        trained: Weights that the updates change, by TransformerLens name.
        order: Order of the training steps: as in the prompt, or as drawn before the permutation.
        balanced: Whether demonstrations are drawn with equal classes.
        query_seed: Seed of the shuffle that picks the evaluation rows.
        skip_repeated: Whether evaluation rows that repeat a demonstration's text are passed over.
        strip: Whether white space around each text is dropped (SST-2's rows end in a space, which
            the published prompts keep).
        normalize_attention_output: SimAOU divides by the norm before subtracting.
        sim_am: SimAM compares differences from ZS, or raw maps (Dai et al. 2023).
    """

    name: str = "default"
    readout: ReadoutToken = "last_prompt_token"
    loss_on: LossOn = "all"
    separator: str = "\n"
    bos: bool = True
    trained: Annotated[tuple[Weight, ...], BeforeValidator(_weights), AfterValidator(_some)] = (
        "W_K",
        "b_K",
        "W_V",
        "b_V",
    )
    order: Order = "prompt"
    balanced: bool = False
    query_seed: Annotated[int, AfterValidator(_query_seed)] = 1
    skip_repeated: bool = True
    strip: bool = True
    normalize_attention_output: bool = True
    sim_am: SimAM = "difference"

    def replace(self, **changes: Any) -> Protocol:
        """Return a copy with `changes`; it is named "custom" unless a name is given.

        Raises:
            ProtocolError: A field is unknown or a value is not allowed.

        Examples:
            >>> DEFAULT.replace(loss_on="label").loss_on
            'label'
        """
        return dataclasses.replace(self, **{"name": "custom", **changes})

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Protocol:
        """Build a protocol from `as_dict`'s output, or from a subset of its fields.

        Raises:
            ProtocolError: A field is unknown or a value is not allowed.
        """
        return cls(**fields)

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits over every field but the name."""
        fields = {key: value for key, value in self.as_dict().items() if key != "name"}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


DEFAULT = Protocol()
"""Read at the last prompt token; language-model loss on all tokens; newline separators."""

REFERENCE = Protocol(
    name="reference",
    readout="first_label_word",
    separator=EOS,
    strip=False,
    skip_repeated=False,
)
"""The published protocol (Deutch et al. 2024): reads at the first label word; EOS separators."""

PROTOCOLS: Mapping[str, Protocol] = {"default": DEFAULT, "reference": REFERENCE}


def get_protocol(protocol: str | Protocol) -> Protocol:
    """Return a preset by name, or the protocol itself.

    Raises:
        ProtocolError: The name is not a preset.
    """
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise ProtocolError(
            f"No protocol is called {protocol!r}; presets: {', '.join(PROTOCOLS)}."
            + nearest(protocol, PROTOCOLS)
        )
    return PROTOCOLS[protocol]
