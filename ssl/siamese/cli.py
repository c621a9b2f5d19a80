"""Hydra's command line with our manners: one line and exit code 2 for a mistake of the user's."""

import errno
import functools
import os
import re
import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import hydra
import yaml
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from siamese import output
from siamese.errors import Stopped, UserError
from siamese.schema.groups import CONF, TRAINER_OWN, options


def say(message: str) -> None:
    """One line on standard error."""
    print(f"error: {message}", file=sys.stderr)


def explain(error: Exception, arguments: list[str], keys: list[str]) -> str:
    """A Hydra or OmegaConf error in one line: key, value, remedy."""
    text = str(error)
    found = re.search(r"Could not find '([^/']+(?:/[^/']+)*)/([^/']*)'", text)
    if found:
        group, option = found.groups()
        known = re.findall(r"^\t([^_\s]\S*)$", text, re.MULTILINE) or options(group)
        return (
            f"{group}={option}: no such option; choose one of {', '.join(known)}"
            if known
            else f"{group}={option}: no such option; see conf/{group}"
        )
    found = re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' is not in struct", text)
    if found:
        key = found.group(1)
        given = next((a for a in arguments if a.lstrip("+~").split("=")[0] == key), key)
        if key.removeprefix("trainer.") in TRAINER_OWN:
            return f"{given}: the run sets it itself; use {TRAINER_OWN[key.removeprefix('trainer.')]}"
        near = get_close_matches(key, keys, n=3, cutoff=0.7) or get_close_matches(
            key.split(".")[-1], keys, n=3, cutoff=0.5
        )
        return f"{given}: no such key; " + (
            f"did you mean {' or '.join(near)}?" if near else "--cfg job prints all keys"
        )
    line = " ".join(text.split())
    return (
        f"{line}; put a value with special characters in quotes: 'run_dir=\"my run\"'"
        if any(word in line for word in ("no viable alternative", "mismatched", "NoViableAlt", "token recognition"))
        else line
    )


def _is_group_without_option(argument: str) -> bool:
    group, equals, value = argument.partition("=")
    return bool(equals) and (CONF / group).is_dir() and not isinstance(yaml.safe_load(value), (str, list))


def all_keys(node: Any, prefix: str = "") -> list[str]:
    """Dotted names of a config, inner ones included."""
    out = []
    for key in node:
        out.append(f"{prefix}{key}")
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
            out += all_keys(child, f"{prefix}{key}.")
    return out


def run(task: Callable[[DictConfig], Any], config_name: str) -> None:
    """Compose `conf/<config_name>.yaml` with the command line and run `task` with it.

    Exit codes: 0 done, 1 a crash, a run that cannot go on or a failed trial, 2 a mistake of the user's,
    128 + the signal's number (130 for Ctrl-C) interrupted.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come to us
    output.protect()
    if not (CONF / f"{config_name}.yaml").is_file():
        say(f"{CONF}/{config_name}.yaml is missing; keep the folder conf of the checkout where it was")
        sys.exit(2)

    @functools.wraps(task)
    def polite(cfg: DictConfig) -> Any:
        try:
            return task(cfg)
        except UserError as error:  # here, since Hydra adds lines of its own to what leaves the task
            say(str(error))
            sys.exit(2)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            say(f"disk write failed ({error}); make room, then continue with resume=true")
            sys.exit(1)
        except (MemoryError, RuntimeError) as error:
            if not (isinstance(error, MemoryError) or "out of memory" in str(error) or "allocate memory" in str(error)):
                raise
            first = (str(error).splitlines() or ["no memory"])[0]
            say(f"memory is exhausted ({first}); lower batch_size, data.crop or the backbone's size")
            sys.exit(1)
        except Stopped as error:
            from siamese.distributed import is_first

            if is_first():  # the other processes stop for the same reason
                say(str(error))
            sys.exit(1)

    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(polite)()
    except (HydraException, OmegaConfBaseException) as error:
        say(explain(error, sys.argv[1:], _known_keys(config_name)))
        sys.exit(2)
    except ValueError as error:
        if "Config group override" not in str(error):  # Hydra's word for a group without an option
            raise
        given = next((a for a in sys.argv[1:] if _is_group_without_option(a)), "a group")
        group = given.split("=")[0]
        told = "leave it out" if group == "experiment" else f"choose one of {', '.join(options(group))}"
        say(f"{given}: these settings are needed; {told}")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    from siamese import sweep

    sys.exit(sweep.exit_code)


def _known_keys(config_name: str) -> list[str]:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    chosen = [a for a in sys.argv[1:] if re.fullmatch(r"[a-z_/]+=[a-z0-9_/]+", a) and (CONF / a.split("=")[0]).is_dir()]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            cfg = compose(config_name, overrides=chosen)
        except HydraException:  # one of the choices is wrong too
            cfg = compose(config_name)
    OmegaConf.set_struct(cfg, False)
    return [key for key in all_keys(cfg) if not key.endswith(("_target_", "_partial_"))]
