"""Files are data: whatever is read is checked against a type here, before anything uses it.

A file may be damaged, edited by hand, or come from somebody else. So there is one boundary and one error: the file,
the field in it, what stands there, and what is allowed.
"""

import dataclasses
import json
import math
import reprlib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metarl.errors import UserError
from metarl.run.files import read_file

_SHORT = reprlib.Repr()
_SHORT.maxlevel = 3
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60

_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    type(None): "null",
    dict: "an object of named values",
    list: "a list",
}


class SchemaError(UserError):
    """A value in a file is not of its type; the message names the field.

    Args:
        field: where in the file, as in "policy.hidden_sizes[1]"; empty for the file as a whole.
        problem: what is wrong.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}" if field else problem)


def read_text(path: Path, named_by_user: bool = False) -> str:
    """The text in a file.

    Args:
        path: the file.
        named_by_user: whether the user named just this file, which may then be a link or a pipe, such as `<(…)`.

    Raises:
        UserError: it cannot be read, or is not UTF-8; names the file.
    """
    try:
        content = path.read_bytes() if named_by_user else read_file(path)
        return content.decode("utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8: {error.reason} at byte {error.start}") from None


def read_json(path: Path, form: Any) -> Any:
    """The JSON in a file, of a type.

    Args:
        path: the file.
        form: see `parse`.

    Raises:
        UserError: it cannot be read, is not JSON, or not of this type; names the file and the field.
    """
    text = read_text(path)
    try:
        return parse_json(text, form)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def parse_json(text: str, form: Any) -> Any:
    """JSON of a type.

    Raises:
        UserError: it is not JSON, or not of this type; names the field.
    """
    return parse(load_json(text), form)


def load_json(text: str) -> Any:
    """JSON as plain data.

    Raises:
        UserError: it is not JSON, gives a name twice, or is nested so deep that nobody meant it.
    """
    from metarl.envs.task_space import named_once  # imports PyTorch, which the command line does without for long

    try:
        return json.loads(text, object_pairs_hook=named_once)
    except RecursionError:
        raise UserError("not JSON: nested too deep") from None
    except ValueError as error:
        raise UserError(f"not JSON: {error}") from None


def parse(value: Any, form: Any, field: str = "") -> Any:
    """Plain data as a value of a type; lists become tuples where the type says so, mappings dataclasses.

    Args:
        value: plain data, as JSON and YAML give it.
        form: int, float, str, bool, None, Any, a Literal, a union, `list[X]`, `Sequence[X]`, `tuple[X, …]`,
            `tuple[X, Y]`, `dict[str, X]`, a dataclass, whose fields without a default must be there and which takes
            no others, or a TypedDict, whose required keys must be there and which may have others besides.
        field: where the value stands; goes into the message.

    Returns:
        the value. A number that is no bool counts as a float; floats are finite.

    Raises:
        SchemaError: it is not of this type.
    """
    if form is Any:
        return value
    if dataclasses.is_dataclass(form):
        return _dataclass(value, form, field)
    if typing.is_typeddict(form):
        return _typed_dict(value, form, field)

    origin = typing.get_origin(form)
    arguments = typing.get_args(form)
    if origin is typing.Literal:
        if not any(type(value) is type(allowed) and value == allowed for allowed in arguments):
            raise _other(field, value, f"one of {', '.join(map(str, arguments))}")
        return value
    if origin in (typing.Union, types.UnionType):
        return _one_of(value, arguments, field)
    if origin in (list, Sequence, tuple):
        return _list(value, origin, arguments, field)
    if origin in (dict, Mapping):
        _require_mapping(value, field)
        return {name: parse(inner, arguments[1], _under(field, name)) for name, inner in value.items()}
    return _plain(value, form, field)


def _plain(value: Any, form: Any, field: str) -> Any:
    """A number, text, true, false or null."""
    if form is None:
        form = type(None)
    # A user who edits a file may write 1 for 1.0. A bool is an int in Python, but no number here.
    allowed = (int, float) if form is float else (form,)
    if type(value) not in allowed:
        raise _other(field, value, _WORDS.get(form, form.__name__))
    if form is float and not _is_finite(value):
        raise _other(field, value, "a finite number")
    return value


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int that no float can hold
        return False


def _one_of(value: Any, forms: Sequence[Any], field: str) -> Any:
    """A value of one of several types."""
    problems = []
    for form in forms:
        try:
            return parse(value, form, field)
        except SchemaError as error:
            problems.append((form, error))

    # Where there is one type besides null, its own message says more.
    others = [error for form, error in problems if form not in (None, type(None))]
    if len(others) == 1:
        raise others[0]
    names = (_WORDS.get(form, getattr(form, "__name__", str(form))) for form in forms)
    raise _other(field, value, " or ".join(names))


def _list(value: Any, origin: Any, arguments: tuple[Any, ...], field: str) -> Any:
    """A list of one type, or of a fixed length with a type for each place."""
    if not isinstance(value, list | tuple):
        raise _other(field, value, "a list")

    fixed = origin is tuple and arguments[-1] is not Ellipsis
    if fixed and len(value) != len(arguments):
        raise _other(field, value, f"a list of {len(arguments)}")
    forms = arguments if fixed else [arguments[0]] * len(value)
    items = [parse(item, form, f"{field}[{n}]") for n, (item, form) in enumerate(zip(value, forms, strict=True))]
    return tuple(items) if origin is tuple else items


def _dataclass(value: Any, form: Any, field: str) -> Any:
    """An instance of a dataclass."""
    if isinstance(value, form):
        return value
    _require_mapping(value, field)

    fields = {known.name: known for known in dataclasses.fields(form) if known.init}
    unknown = [name for name in value if name not in fields]
    if unknown:
        raise SchemaError(field, f"{form.__name__} has no field {_short(unknown)}")
    for name, known in fields.items():
        has_default = known.default is not dataclasses.MISSING or known.default_factory is not dataclasses.MISSING
        if name not in value and not has_default:
            raise SchemaError(_under(field, name), "is missing")

    hints = typing.get_type_hints(form)
    return form(**{name: parse(inner, hints[name], _under(field, name)) for name, inner in value.items()})


def _typed_dict(value: Any, form: Any, field: str) -> dict[str, Any]:
    """The same mapping, with the keys that it must have, and the others that are known of their types."""
    _require_mapping(value, field)
    for name in sorted(form.__required_keys__):
        if name not in value:
            raise SchemaError(_under(field, name), "is missing")

    hints = typing.get_type_hints(form)
    known = {name: parse(value[name], hint, _under(field, name)) for name, hint in hints.items() if name in value}
    return {**value, **known}


def _require_mapping(value: Any, field: str) -> None:
    if not isinstance(value, Mapping):
        raise _other(field, value, _WORDS[dict])
    for name in value:
        if not isinstance(name, str):
            raise SchemaError(field, f"names must be text, got {_short(name)}")


def _other(field: str, value: Any, allowed: str) -> SchemaError:
    return SchemaError(field, f"must be {allowed}, got {_short(value)}")


def _short(value: Any) -> str:
    """A value for a message: never long, however large or deep it is."""
    return _SHORT.repr(value)


def _under(field: str, name: Any) -> str:
    """The field's name below another one."""
    short = name if isinstance(name, str) and len(name) <= _SHORT.maxstring else _short(name)
    return f"{field}.{short}" if field else str(short)
