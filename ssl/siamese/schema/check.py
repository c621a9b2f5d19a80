"""Check nodes of a config against the signatures of the classes that they name."""

import functools
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar, Union

import pydantic
from annotated_types import Ge, Gt, Le, Lt

from siamese.errors import UserError
from siamese.schema.types import Built, Group, Like, Says

REST = "**"  # in `arguments`: any further name is accepted
T = TypeVar("T")


def check_group(key: str, values: Any, group: type[Group]) -> None:
    """Check a node without `_target_`, and the nodes within it.

    Args:
        key: dotted name of the node, "" at the top.

    Raises:
        UserError: names the first key that is missing, unknown or has an impossible value.
    """
    kinds = hints(group)
    if not isinstance(values, Mapping):
        raise UserError(f"{key}={shown(values)}", "must be a group of settings", f"give {key}.KEY=VALUE")
    for name in kinds:
        if name not in values:
            raise UserError(joined(key, name), "is missing", f"give {wanted(kinds[name])}")
    if group.rest is not None:
        kinds = {**kinds, **{name: group.rest for name in values if name not in kinds}}
    _known(key, values, kinds)
    for name, kind in kinds.items():
        _check(joined(key, name), values[name], kind)


def check_node(key: str, node: Mapping[str, Any], built: Built | None = None) -> None:
    """Check a node with `_target_`, and the nodes within it, against the arguments of its target; see `check_group`."""
    built = built or Built()
    target = locate(f"{key}._target_", node["_target_"])
    given = {k: v for k, v in node.items() if k not in ("_target_", "_partial_")}
    _check(f"{key}._partial_", node.get("_partial_", False), bool)
    for name in given:
        if name in built.own:
            raise UserError(f"{key}.{name}={shown(given[name])}", "the run sets it itself", f"use {built.own[name]}")
    if built.partial and not node.get("_partial_"):
        raise UserError(f"{key}._partial_={shown(node.get('_partial_', False))}", "must be true", "leave it true")
    also = hints(built.also) if built.also else {}
    kinds = {**(hints(built.extra) if built.extra else arguments(target)), **also}
    if REST not in kinds:
        _known(key, given, kinds)
    if not node.get("_partial_"):  # the caller gives the remaining arguments
        for name in [*also, *required(target)]:
            if name not in given and name not in built.own:
                raise UserError(joined(key, name), "is missing", f"give {wanted(kinds[name])}")
    for name, value in sorted(given.items(), key=lambda item: isinstance(item[1], Mapping)):
        _check(joined(key, name), value, kinds.get(name, Any))  # nodes last: they may repeat values of this one


def _check(key: str, value: Any, kind: Any) -> None:
    built = meta(kind, Built)
    like = meta(kind, Like)
    if isinstance(kind, type) and issubclass(kind, Group):
        check_group(key, value, kind)
    elif isinstance(value, Mapping) and "_target_" in value:
        check_node(key, value, built)
    elif built is not None:
        if value or not built.optional:
            raise UserError(f"{key}={shown(value)}", "names nothing to build", f"choose an option of {key}=")
    elif like is not None:
        check_value(key, value, kind)
        for i, one in enumerate(value):
            _known(f"{key}.{i}", one, arguments(like.target))
            for name, inner in one.items():
                check_value(f"{key}.{i}.{name}", inner, arguments(like.target)[name])
    else:
        check_value(key, value, kind)


def check_value(key: str, value: Any, kind: Any) -> None:
    """Check one value against a type."""
    adapter = _adapter(_Kind(kind))
    if adapter is None:  # a type of a library
        return
    for one in (value, _tuples(value)):  # yaml has lists where libraries expect tuples
        try:
            adapter.validate_python(one)
            return
        except pydantic.ValidationError:
            pass
    raise UserError(f"{key}={shown(value)}", "not a possible value", f"give {wanted(kind)}")


class _Kind:
    """A type as a key of a cache; the metadata of `Annotated` may not be hashable."""

    def __init__(self, kind: Any):
        self.kind = kind

    def __hash__(self) -> int:
        return hash(repr(self.kind))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Kind) and (self.kind is other.kind or repr(self.kind) == repr(other.kind))


@functools.cache
def _adapter(of: _Kind) -> pydantic.TypeAdapter[Any] | None:
    config = pydantic.ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)
    try:
        return pydantic.TypeAdapter(of.kind, config=config)
    except (pydantic.errors.PydanticUserError, NameError):
        return None


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def locate(key: str, name: Any) -> Callable[..., Any]:
    """The class or function that `_target_` names.

    Raises:
        UserError: it does not exist, or its module cannot be imported.
    """
    problem: object = "no module.name"
    if isinstance(name, str) and "." in name:
        module, _, attribute = name.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), attribute)
            if callable(found):
                return found  # type: ignore[no-any-return]
            problem = "cannot be called"
        except Exception as error:  # whatever the user's module raises
            problem = f"{type(error).__name__}: {error}"
    raise UserError(f"{key}={shown(name)}", f"cannot be imported ({problem})", "name a class or function, module.name")


def arguments(target: Any) -> dict[str, Any]:
    """Argument names of a class or function -> their types. ``**kwargs`` stand for the arguments of `Like`, or of the
    constructor of the base class."""
    return _signature(target)[0]


def required(target: Any) -> list[str]:
    """The `arguments` without a default."""
    return _signature(target)[1]


def defaults(target: Any) -> dict[str, Any]:
    """The `arguments` that have a default -> the default."""
    return _signature(target)[2]


@functools.cache
def _signature(target: Any) -> tuple[dict[str, Any], list[str], dict[str, Any]]:
    out: dict[str, Any] = {}
    needed: list[str] = []
    preset: dict[str, Any] = {}
    if isinstance(target, type) and issubclass(target, Group):
        return hints(target), [], {}
    makers = [target]
    if isinstance(target, type):
        makers = [vars(c)["__init__"] for c in target.__mro__ if "__init__" in vars(c)]
    for maker in makers:
        try:
            parameters = list(inspect.signature(maker).parameters.values())
        except (TypeError, ValueError):  # implemented in C
            return {**out, REST: Any}, needed, preset
        try:
            kinds = hints(maker)
        except NameError:  # a library's types that exist for type checkers only
            kinds = {p.name: _evaluated(p.annotation, maker) for p in parameters}
        rest = None
        for p in parameters[1:] if isinstance(target, type) else parameters:
            if p.kind is p.VAR_KEYWORD:
                rest = p
            elif p.kind is not p.VAR_POSITIONAL and p.name not in out:
                out[p.name] = kinds.get(p.name, Any)
                needed += [p.name] if p.default is p.empty and maker is makers[0] else []
                preset |= {p.name: p.default} if p.default is not p.empty else {}
        if rest is None:
            return out, needed, preset
        like = meta(kinds.get(rest.name), Like)
        if like is not None:
            for kind in like.target if isinstance(like.target, list) else [like.target]:
                more, also_needed, also_preset = _signature(kind)
                needed += [n for n in also_needed if n not in out]
                out, preset = {**more, **out}, {**also_preset, **preset}
            return out, needed, preset
    return {**out, REST: Any}, needed, preset


def _evaluated(annotation: Any, maker: Any) -> Any:
    try:
        return eval(annotation, vars(inspect.getmodule(maker))) if isinstance(annotation, str) else annotation
    except Exception:
        return Any


def hints(of: Any) -> dict[str, Any]:
    """Names -> annotations, with the metadata of `Annotated`."""
    return typing.get_type_hints(of, include_extras=True)


def meta(kind: Any, wanted: type[T]) -> T | None:
    """The metadata of class `wanted` that `Annotated` adds to a type, or None."""
    found = kind.__metadata__ if typing.get_origin(kind) is Annotated else ()
    return next((m for m in found if isinstance(m, wanted)), None)


def _known(key: str, values: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    for name in values:
        if name not in kinds:
            near = get_close_matches(str(name), [k for k in kinds if k != REST], n=3, cutoff=0.6)
            told = f"did you mean {' or '.join(joined(key, n) for n in near)}?" if near else "leave it out"
            raise UserError(f"{joined(key, name)}={shown(values[name])}", "no such key", told)


def joined(key: str, name: Any) -> str:
    """The dotted name of a key in a node."""
    return f"{key}.{name}" if key else str(name)


def shown(value: Any) -> str:
    """A value as written on the command line, at most 100 characters."""
    if isinstance(value, Mapping):
        text = "{" + ",".join(f"{k}:{shown(v)}" for k, v in value.items()) + "}"
    elif isinstance(value, Sequence) and not isinstance(value, str):
        text = "[" + ",".join(shown(v) for v in value) + "]"
    elif isinstance(value, bool) or value is None:
        text = {None: "null", True: "true", False: "false"}[value]
    else:
        text = str(value)
    return text if len(text) <= 100 else text[:99] + "…"


_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "null",
    dict: "settings",
    Mapping: "settings in {}",
}
_BOUNDS = (
    (Gt, "gt", "above", "("), (Ge, "ge", "of at least", "["), (Lt, "lt", "below", ")"), (Le, "le", "of at most", "]"),
)  # fmt: skip


def wanted(kind: Any) -> str:
    """A description of a type, such as "a number in (0, 1]"."""
    says = meta(kind, Says)
    if says is not None:
        return says.text
    if meta(kind, Built) is not None:
        return "one of its options"
    if typing.get_origin(kind) is Annotated:
        inner = wanted(typing.get_args(kind)[0])
        bounds = [
            (w, s, f"{getattr(m, n):.10g}") for m in kind.__metadata__ for c, n, w, s in _BOUNDS if isinstance(m, c)
        ]
        if len(bounds) == 2:
            (_, opens, low), (_, closes, high) = bounds
            return f"{inner} in {opens}{low}, {high}{closes}"
        return f"{inner} {bounds[0][0]} {bounds[0][2]}" if bounds else inner
    options = _options(kind)
    if options:
        return f"{', '.join(options[:-1])} or {options[-1]}" if len(options) > 1 else options[0]
    origin = typing.get_origin(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(wanted(k) for k in typing.get_args(kind))
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return f"a list, each {wanted(typing.get_args(kind)[0])}"
    return _WORDS.get(origin or kind, f"a {getattr(kind, '__name__', kind)}")


def _options(kind: Any) -> list[str]:
    """All values of a type with few values."""
    if kind is bool:
        return ["true", "false"]
    if typing.get_origin(kind) is Literal:
        return [shown(v) for v in typing.get_args(kind)]
    if typing.get_origin(kind) in (Union, types.UnionType):
        parts = [["null"] if k is type(None) else _options(k) for k in typing.get_args(kind)]
        return [o for part in parts for o in part] if all(parts) else []
    return []
