"""What a tracker must not get: settings whose names say that they are secrets, and passwords within addresses."""

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "(hidden)"
_ENDINGS = (
    "token", "secret", "password", "passwd", "passphrase", "passcode", "credential", "key", "auth", "authorization",
    "bearer", "cookie",
)  # fmt: skip
_WORDS = ("pwd", "pass", "cred", "sig", "signature")
_IN_ADDRESS = re.compile(r"(?<=://)(?:[^/@\s:]*:\S*|[^/\s]+)(?=@)")  # user:password, which may hold a / or an @
_IN_QUERY = re.compile(r"([?&]([^=&\s]+)=)([^&\s]+)")


def is_secret(name: str) -> bool:
    """Whether a word of the name is one that secrets have: token, password, key, secret, credential, …"""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    stems = [w.lower()[:-1] if w.lower().endswith("s") and not w.lower().endswith("ss") else w.lower() for w in words]
    return any(stem in _WORDS or stem.endswith(_ENDINGS) for stem in stems)


def secrets(config: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the settings of a config that `without_secrets` hides, wholly or in part."""
    found = []
    for key, value in _items(config):
        name = f"{prefix}{key}"
        named_so = is_secret(str(key)) and value not in (None, "", False)
        if named_so or (isinstance(value, str) and without_passwords(value) != value):
            found.append(name)
        elif isinstance(value, (Mapping, list)):
            found += secrets(value, f"{name}.")  # type: ignore[arg-type]
    return found


def without_secrets(value: Any) -> Any:
    """A copy of plain values in which settings that `is_secret`, and passwords in addresses, are `HIDDEN`."""
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if is_secret(str(key)) and inner not in (None, "", False) else without_secrets(inner)
            for key, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [without_secrets(inner) for inner in value]
    return without_passwords(value) if isinstance(value, str) else value


def without_passwords(text: str) -> str:
    """Text whose addresses have no ``user:password@`` and no secret arguments (``?token=…``)."""
    text = _IN_ADDRESS.sub(HIDDEN, text)
    return _IN_QUERY.sub(lambda m: f"{m[1]}{HIDDEN}" if is_secret(m[2]) else m[0], text)


def _items(node: Any) -> Any:
    return node.items() if isinstance(node, Mapping) else enumerate(node)
