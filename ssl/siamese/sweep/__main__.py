"""The table of sweeps and runs anew: python -m siamese.sweep FOLDER [FOLDER …] [out=FOLDER]."""

import sys
from collections.abc import Sequence
from pathlib import Path

from siamese import output
from siamese.errors import RunAborted, UserError
from siamese.paths import expand_path
from siamese.sweep import closing
from siamese.sweep.folder import FILE
from siamese.sweep.gather import outcomes

USAGE = "python -m siamese.sweep FOLDER [FOLDER …] [out=FOLDER]"


def again(words: Sequence[str]) -> int:
    """Print the table of the runs in some folders; write sweep.csv, trials.csv and sweep.html; of a sweep, or of
    several with `out=`, also the best setting as an experiment.

    Args:
        words: folders of sweeps or of runs, and `out=FOLDER` for the files; by default the one folder, of several
            folders the current one.

    Returns:
        The number of failed trials.

    Raises:
        UserError: no folder is given, one holds no run, or `out` is no folder.
    """
    given = [w for w in words if not w.startswith("out=")]
    outs = [w.removeprefix("out=") for w in words if w.startswith("out=")]
    if not given or len(outs) > 1:
        raise UserError("siamese.sweep", "names no folder" if not given else "out= is given several times", USAGE)
    target = expand_path(outs[0] if outs else given[0] if len(given) == 1 else ".", "out")
    found = outcomes(given)
    if target.exists() and not target.is_dir():
        raise UserError(f"out={target}", "is a file", "give a folder")
    try:
        target.mkdir(parents=True, exist_ok=True)
        of_sweeps = all(o.run_dir is None or (Path(o.run_dir).parent / FILE).is_file() for o in found)
        return closing.show(found, target, of_sweeps and (len(given) == 1 or bool(outs)))
    except (OSError, RunAborted) as error:
        raise UserError(
            f"out={target}", f"cannot be written to ({error})", "give another folder by out=FOLDER"
        ) from error


def main() -> None:
    """Exit codes as `siamese.cli.run`."""
    words = sys.argv[1:]
    output.protect()
    if words[:1] in (["-h"], ["--help"]):
        print(f"{again.__doc__.splitlines()[0]}\n{USAGE}")  # type: ignore[union-attr]
        return
    try:
        sys.exit(1 if again(words) else 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
