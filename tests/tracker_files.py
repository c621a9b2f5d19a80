"""Readers of what trackers write, which use nothing of ours."""

import json
import struct
import time
from pathlib import Path

BLOCK = 32768


def wandb_records(file: Path):
    """The protocol buffers in a .wandb file, a log of LevelDB
    (https://github.com/google/leveldb/blob/main/doc/log_format.md) behind seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content = file.read_bytes()
    assert content[:4] == b":W&B"
    at, parts = 7, b""
    while at + 7 <= len(content):
        left = BLOCK - at % BLOCK
        if left < 7:  # a trailer
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def wandb_runs(folder: Path) -> list[Path]:
    """The files of a run's sittings in their order, once wandb's own process has written their ends."""
    files = sorted(folder.glob("wandb/*run-*/run-*.wandb"), key=lambda f: f.parent.name)
    until = time.monotonic() + 20
    while not all(any(r.WhichOneof("record_type") == "exit" for r in wandb_records(f)) for f in files):
        assert time.monotonic() < until
        time.sleep(0.02)
    return files


def wandb_history(file: Path) -> list[dict]:
    """The rows that were logged."""
    rows = []
    for record in wandb_records(file):
        if record.WhichOneof("record_type") == "history":
            row: dict = {}
            for item in record.history.item:
                *nodes, last = [item.key] if item.key else item.nested_key
                node = row
                for name in nodes:
                    node = node.setdefault(name, {})
                node[last] = json.loads(item.value_json)
            rows.append(row)
    return rows


def wandb_run(file: Path):
    """The record of the run: id, project, group, tags, config."""
    return next(r.run for r in wandb_records(file) if r.WhichOneof("record_type") == "run")


def tensorboard_reader(folder: Path):
    """What TensorBoard shows of a run folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    unlimited = {"scalars": 0, "tensors": 0, "images": 0}
    return EventAccumulator(str(folder / "tensorboard"), size_guidance=unlimited).Reload()


def mlflow_client(folder: Path):
    """A client of the database in a run folder."""
    from mlflow.tracking import MlflowClient

    return MlflowClient(f"sqlite:///{folder.absolute()}/mlflow/mlflow.db")
