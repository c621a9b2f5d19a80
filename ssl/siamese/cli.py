"""Hydra's command line, with one line and exit code 2 for a user's mistake."""

import errno
import functools
import itertools
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import hydra
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from siamese import output
from siamese.commands import completion, usage, words
from siamese.config import quoted
from siamese.errors import RunAborted, UserError, printable
from siamese.options import CONF, is_group, options, own_conf
from siamese.processors import limit_spinning
from siamese.schema.check import hints
from siamese.schema.groups import EvalData
from siamese.schema.messages import all_keys, explain


def _is_group_without_option(argument: str) -> bool:
    group, equals, value = argument.partition("=")
    return bool(equals) and is_group(group) and not isinstance(yaml.safe_load(value), (str, list))


def moved_groups(arguments: Sequence[str]) -> list[str]:
    """The arguments of eval_linear.py with the groups of train.py, and their keys, gathered in `foreign=[…]`.

    data=, backbone= and augment= describe a pretraining: the evaluation composes them together with train.yaml, whose
    other settings they need. A sweep (`-m`) over them becomes a sweep over the lists.

    Raises:
        UserError: `foreign=` is given, too; or several values without `-m`.
    """
    own = {f"data.{key}" for key in hints(EvalData)}
    pattern = re.compile(r"[+~]*((?:data|backbone|augment(?:_scale|_recipe)?)(?:[./@][^=]*)?)=")
    as_trained = re.compile(r"(data|backbone|augment)=null", re.IGNORECASE)
    arguments = [re.sub(r"^\+(?=(data|backbone|augment)=)", "", a) for a in arguments if not as_trained.fullmatch(a)]
    taken = [a for a in arguments if (m := pattern.match(a)) and m.group(1) not in own]
    if not taken:
        return arguments
    if any(re.match(r"\+*foreign=", a) for a in arguments):
        raise UserError(taken[0], "foreign=[…] sets the same", "give only one of them")
    swept = any(a in ("-m", "--multirun") for a in arguments)
    lists = [",".join(map(quoted, chosen)) for chosen in itertools.product(*(_choices(a, swept) for a in taken))]
    place = arguments.index(taken[0])  # argparse takes no override after an option that follows overrides
    gathered = f"foreign={','.join(f'[{items}]' for items in lists)}"
    return [gathered if i == place else a for i, a in enumerate(arguments) if i == place or a not in taken]


def _choices(argument: str, swept: bool) -> list[str]:
    """The argument for each value of a sweep."""
    parsed = OverridesParser.create().parse_override(argument)
    if not parsed.is_sweep_override():
        return [argument]
    if not swept or isinstance(parsed.value(), Glob):
        raise UserError(argument, "names several values", "give one; or add -m, and list them")
    key = argument.partition("=")[0]
    return [f"{key}={value}" for value in parsed.sweep_string_iterator()]


def searchpath(arguments: Sequence[str]) -> list[str]:
    """The override by which Hydra finds the options of the user's `conf/` as well, whose `_target_`s may be modules
    beside it; nothing if there is none or the command line has its own search path."""
    own = own_conf()
    if own is None or any(a.startswith("hydra.searchpath=") for a in arguments):
        return []
    if str(own.parent) not in sys.path:
        sys.path.append(str(own.parent))  # last, so that it hides no module
    return [f"hydra.searchpath=[{quoted(f'file://{own}')}]"]


def with_searchpath(arguments: Sequence[str]) -> list[str]:
    """The arguments with the override of `searchpath` among the others: argparse takes none after an option that
    follows overrides."""
    at = next((i for i, a in enumerate(arguments) if "=" in a and not a.startswith("-")), len(arguments))
    return [*arguments[:at], *searchpath(arguments), *arguments[at:]]


def run(task: Callable[[DictConfig], Any], config_name: str, arguments: Sequence[str] | None = None) -> None:
    """Compose `conf/<config_name>.yaml` with the command line and run `task` with it.

    Args:
        arguments: settings; None: all words of the command line after the script.

    Exit codes: 0 done, 1 a crash, an aborted run or a failed trial, 2 a user's mistake, 128 + the signal's number (130
    for Ctrl-C) interrupted.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra lets exceptions through
    output.protect()
    if not (CONF / f"{config_name}.yaml").is_file():
        missing = f"{CONF}/{config_name}.yaml is missing"
        _end(f"{missing}; install the package again, or keep the checkout's folder conf where it was", 2)
    typed = sys.argv[1:]
    arguments = list(typed if arguments is None else arguments)
    command = {"eval_linear": "eval"}.get(config_name, config_name)
    if any(a in ("-h", "--help") for a in arguments):
        print(usage.text(command, f"python {os.path.basename(sys.argv[0])}"))
        sys.exit(0)
    if completion.asked(arguments):
        known = functools.partial(_known_keys, config_name)
        print("\n".join(completion.answer(command, completion.line()[2:], known)))
        sys.exit(0)

    @functools.wraps(task)
    def polite(cfg: DictConfig) -> Any:
        sys.argv[1:] = typed
        return _carry_out(task, cfg)

    try:
        arguments = words.options_first(arguments)
        composed = moved_groups(arguments) if config_name != "train" else arguments
        sys.argv[1:] = with_searchpath(composed)
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(polite)()
    except UserError as error:
        _end(str(error), 2)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        _undo_sweep()
        _end(f"conf: a yaml cannot be read ({printable(str(error))}); correct the file", 2)
    except (HydraException, OmegaConfBaseException) as error:
        _undo_sweep()
        _end(str(explain(error, arguments, _known_keys(config_name, arguments))), 2)
    except ValueError as error:
        if "Config group override" not in str(error):  # Hydra's message for a group without an option
            _end_sweep(error)
            raise
        given = next((a for a in arguments if _is_group_without_option(a)), "a group")
        group = given.split("=")[0]
        remedy = "leave it out" if group == "experiment" else f"choose one of {', '.join(options(group))}"
        _end(f"{given}: these settings are needed; {remedy}", 2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        _end_sweep(error)
        raise
    from siamese.sweep import callback

    sys.exit(callback.exit_code)


def _undo_sweep() -> None:
    """A mistake of the user's leaves nothing of a sweep that had no trial yet."""
    from siamese.sweep import callback

    callback.undo()


def _end_sweep(error: Exception) -> None:
    """End the process if a launcher or a sweeper has raised the error."""
    from siamese.sweep import callback

    if isinstance(error.__context__, KeyboardInterrupt):  # a launcher's own troubles with it
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    told = callback.ended_by(error)
    if told is not None:
        _end(told, 1)


def run_words(task: Callable[[Sequence[str]], Any], given: Sequence[str]) -> None:
    """Run a command that has no config with its words; exit codes as `run`."""
    output.protect()
    try:
        _carry_out(task, given)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _carry_out(task: Callable[[Any], Any], cfg: Any) -> Any:
    """Run the task. Exceptions end the process here, because Hydra adds lines to those that leave the task."""
    limit_spinning()  # torch is imported by the task
    try:
        return task(cfg)
    except UserError as error:
        _end(str(error), 2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        _end(f"disk write failed ({error}); make room, then continue with resume=true", 1)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or "out of memory" in str(error) or "allocate memory" in str(error)):
            raise
        first = (str(error).splitlines() or ["no memory"])[0]
        _end(f"memory is exhausted ({first}); lower batch_size, data.crop or the backbone's size", 1)
    except RunAborted as error:
        from siamese.distributed import is_rank_zero

        _end(str(error) if is_rank_zero() else None, 1)  # all ranks stop for the same reason


def _end(message: str | None, code: int) -> NoReturn:
    """Print one line on standard error and exit."""
    if message is not None:
        print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def _known_keys(config_name: str, arguments: Sequence[str]) -> list[str]:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    chosen = [a for a in arguments if re.fullmatch(r"[a-z_/]+=[a-z0-9_/]+", a) and is_group(a.split("=")[0])]
    chosen += searchpath(arguments)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            cfg = compose(config_name, overrides=chosen)
        except (HydraException, OmegaConfBaseException):  # one of the choices is wrong too
            cfg = compose(config_name)
    OmegaConf.set_struct(cfg, False)
    keys = [key for key in all_keys(cfg) if not key.endswith(("_target_", "_partial_"))]
    return keys if config_name == "train" else [*keys, "backbone", "augment"]  # groups that are moved
