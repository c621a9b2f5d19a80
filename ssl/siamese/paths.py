"""Paths in settings."""

from pathlib import Path

from siamese.errors import UserError


def expand_path(value: str | int | Path, key: str) -> Path:
    """A path with `~` expanded.

    Args:
        key: the setting, for the message.

    Raises:
        UserError: no such user, or a name that no file can have.
    """
    try:
        path = Path(str(value)).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        told = getattr(error, "strerror", None) or error
        raise UserError(f"{key}={str(value)[:100]}", f"cannot be a path ({told})", "give another path") from error
    return path
