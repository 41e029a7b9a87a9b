"""What is checked where it enters: seeds, types of arguments, and the fields of dataclasses.

Pydantic checks fields, and the package's own errors are raised:

@validated(ProtocolError, fault)
@dataclass(frozen=True, config=STRICT)   # pydantic.dataclasses.dataclass
class Protocol: ...
"""

from __future__ import annotations

import inspect
import operator
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from iclgd_lens.errors import LensError, SeedError

Class = TypeVar("Class", bound=type[Any])
Function = TypeVar("Function", bound=Callable[..., Any])

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""Types are taken as they are: "yes" is no truth value, and True no number."""


class StrictSpec(BaseModel):
    """Part of a file that people write: unknown fields are refused, nothing changes once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, value: Any, info: Any) -> Any:
        field = cls.model_fields[str(info.field_name)]
        if isinstance(value, bool) and "bool" not in str(field.annotation):
            raise ValueError(f"{str(value).lower()} is given where a number or name is needed")
        return value


def validated(
    error: type[LensError], say: Callable[[Mapping[str, Any], Mapping[str, Any]], str]
) -> Callable[[Class], Class]:
    """Make a pydantic dataclass raise the package's own error for the first thing that is wrong.

    Args:
        error: The class to raise.
        say: Makes the message from pydantic's description of the fault and what was given by name.
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
        LensError: (the class `error`) It is not an integer from 0 to `LARGEST`.
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


# -- types of arguments ----------------------------------------------------------------------------


def checks_types(error: type[LensError]) -> Callable[[Function], Function]:
    """Decorate a public function: arguments of a plainly wrong type are refused in one line.

    Args:
        error: What is raised; see `check_arguments`.
    """

    def wrap(function: Function) -> Function:
        signature = inspect.signature(function)

        @wraps(function)
        def checked(*values: Any, **named: Any) -> Any:
            try:
                given = signature.bind(*values, **named).arguments
            except TypeError:  # Python itself complains of a missing or unknown name, below
                given = {}
            check_arguments(function, given, error)
            return function(*values, **named)

        return cast("Function", checked)

    return wrap


def check_arguments(
    function: Callable[..., Any], given: Mapping[str, Any], error: type[LensError], where: str = ""
) -> None:
    """Refuse a value whose type is plainly not the one that a function's signature names.

    Checked are annotations made of int, float, str, bool, None and lists of these, or of a mapping
    and None; any other annotation allows everything. What can be used as a number (NumPy's, a
    tensor with one entry) is a number.

    Args:
        function: The function that they are passed to.
        given: Values by argument.
        error: What is raised.
        where: Set before the argument's name in the message.

    Raises:
        LensError: (the class `error`) A value is of another type.
    """
    for name, parameter in inspect.signature(function).parameters.items():
        # A default fits whatever the annotation says: many write `lr: float = None`.
        if name not in given or given[name] is parameter.default:
            continue
        annotation: Any = parameter.annotation
        text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
        allowed = [_kind(part) for part in text.strip("'\"").split(" | ")]
        if _MAPPING in allowed and any(k not in (_MAPPING, _KINDS["None"]) for k in allowed):
            continue  # where other types are allowed, too, the function says better what it wants
        if any(kind is None or kind[1](given[name]) for kind in allowed):
            continue
        wanted = " or ".join(kind[0] for kind in allowed if kind is not None)
        raise error(f"{where}{name} must be {wanted}, not {reprlib.repr(given[name])}")


Kind = tuple[str, Callable[[Any], bool]]
"""What a type is called in messages, and whether a value is of it."""


def _is_integer(value: Any) -> bool:
    return not isinstance(value, bool) and hasattr(type(value), "__index__")


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and (hasattr(type(value), "__float__") or _is_integer(value))


_KINDS: Mapping[str, Kind] = {
    "int": ("an integer", _is_integer),
    "float": ("a number", _is_number),
    "str": ("a text", lambda value: isinstance(value, str)),
    "bool": ("True or False", lambda value: isinstance(value, bool)),
    "None": ("None", lambda value: value is None),
}
_PLURALS = {"int": "integers", "float": "numbers", "str": "texts"}
_MAPPING: Kind = ("a mapping", lambda value: hasattr(type(value), "keys"))
_TABLE = re.compile(r"(?:[\w.]*\.)?(?:Mapping|dict)\[[^|]*\]")
_LIST = re.compile(r"(?:[\w.]*\.)?(?:Iterable|Sequence|list)\[(int|float|str)\]")


def _kind(annotation: str) -> Kind | None:
    """The kind of one part of an annotation; None for one that takes everything."""
    if _TABLE.fullmatch(annotation):
        return _MAPPING
    listed = _LIST.fullmatch(annotation)
    if listed is None:
        return _KINDS.get(annotation)
    fits = _KINDS[listed[1]][1]

    def is_list(value: Any) -> bool:
        if isinstance(value, (list, tuple)):
            return all(fits(each) for each in cast("Iterable[Any]", value))
        return hasattr(type(value), "__iter__") and not isinstance(value, (str, bytes))

    return f"a list of {_PLURALS[listed[1]]}", is_list
