"""What is checked where it enters: seeds, and the fields of dataclasses.

Pydantic checks fields, and the package's own errors are raised:

@validated(ProtocolError, fault)
@dataclass(frozen=True, config=STRICT)   # pydantic.dataclasses.dataclass
class Protocol: ...
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from iclgd_lens.errors import LensError, SeedError

Class = TypeVar("Class", bound=type[Any])

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""Types are taken as they are: "yes" is no truth value, and True no number."""


class Part(BaseModel):
    """Part of a file that people write: unknown fields are refused, nothing changes once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def validated(
    error: type[LensError], say: Callable[[Mapping[str, Any], Mapping[str, Any]], str]
) -> Callable[[Class], Class]:
    """Make a pydantic dataclass raise the package's own error for the first thing that is wrong.

    Args:
        error: The class to raise.
        say: From pydantic's description of the fault and what was given by name, the message.
    """

    def wrap(cls: Class) -> Class:
        build = cls.__init__
        names = list(cast("Any", cls).__dataclass_fields__)

        @wraps(build)
        def checked(self: Any, *values: Any, **fields: Any) -> None:
            try:
                build(self, *values, **fields)
            except ValidationError as found:
                given = dict(zip(names, values, strict=False)) | fields
                raise error(say(cast("Any", found.errors()[0]), given)) from None

        cls.__init__ = checked
        return cls

    return wrap


def own_message(fault: Mapping[str, Any]) -> str | None:
    """The message of a `ValueError` that a validator raised, or None for pydantic's own faults."""
    if fault["type"] != "value_error":
        return None
    return str(fault["ctx"]["error"])


LARGEST = 2**63 - 1
"""The largest seed: generators and the columns of result files hold 63 bits."""


def check_seed(seed: Any, what: str = "seed", error: type[LensError] = SeedError) -> int:
    """Return a seed as an integer.

    Args:
        seed: What was given; NumPy's integers are taken, too.
        what: What it is called in the message.
        error: What is raised.

    Raises:
        LensError: (the class `error`) It is no integer from 0 to `LARGEST`.
    """
    try:
        if isinstance(seed, bool):
            raise TypeError
        whole = operator.index(seed)
    except TypeError:
        raise error(f"{what} must be an integer, not {seed!r}") from None
    if whole < 0:
        raise error(f"{what} must be 0 or more, not {whole}")
    if whole > LARGEST:
        digits = whole.bit_length()
        raise error(f"{what} must be at most 2**63 - 1, not a number of {digits} bits")
    return whole
