"""Crops that are cut out of files: the same numbers whoever cuts them, and after every interruption."""

import signal

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from runs import differences, interrupt
from torch.utils.data._utils import signal_handling

from siamese.checkpoints.reading import load

STEPS = 10  # of an epoch: 40 images, 4 at a time


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """40 tiles of 13 bands, uint16, of two classes."""
    folder = tmp_path_factory.mktemp("tiles")
    for i in range(40):
        rng = np.random.default_rng(i)
        x = rng.integers(0, 9000, (20 + i % 3, 30, 13), dtype=np.uint16)
        (folder / "ab"[i % 2]).mkdir(exist_ok=True)
        tifffile.imwrite(folder / "ab"[i % 2] / f"{i:02}.tif", x, photometric="minisblack", planarconfig="contig")
    return folder


@pytest.fixture
def tile_run(session, tiles):
    """A run on the tiles, without labels so that all 40 are trained on."""

    made = []

    def make(*overrides, folder="run"):
        run = session(
            "data=folder", f"data.path={tiles}", "data.labels=none", "data.size=24", "data.crop=16", "batch_size=4",
            "backbone=small", "epochs=2", "augment.rotate_degrees=10", "checkpoint.every_steps=3", *overrides,
            folder=folder,
        )  # fmt: skip
        made.append(run)
        return run

    yield make
    for run in made:
        for loader in (run.loader, run.probe.few, *run.probe.loaders.values()):
            end_workers(loader.loader)


def end_workers(loader):
    """Torch waits five seconds for each worker of a loader that an interruption left behind."""
    iterator = getattr(loader, "_iterator", None)
    if iterator is not None and hasattr(iterator, "_workers"):
        signal_handling._remove_worker_pids(id(iterator))  # their death is no failure
        iterator._worker_pids_set = False
        for worker in iterator._workers:
            worker.kill()


def saved(tmp_path, folder):
    return load(tmp_path / folder / "checkpoints" / "last.ckpt")


PLACES = {
    "workers": ("data.resident=false", "data.workers=2"),
    "main process": ("data.resident=false", "data.workers=0"),
    "resident": ("data.resident=true", "data.workers=0"),
    "packed": ("data.packed=PACKED", "data.resident=false", "data.workers=0"),
}


@pytest.mark.parametrize(
    ("place", "method"),
    [("workers", "moco"), ("main process", "simsiam"), ("resident", "simsiam"), ("packed", "simsiam")],
)
def test_interrupted_and_resumed_is_uninterrupted(tile_run, tmp_path, place, method):
    """By Ctrl-C in the middle of the second epoch; every weight, average, queue and generator is compared."""
    own = [o.replace("PACKED", str(tmp_path / "packed")) for o in PLACES[place]]
    own += [f"method={method}", *(["method.queue_size=8", "method.bn_splits=2"] if method == "moco" else [])]
    tile_run(*own, folder="whole").fit()
    interrupt(tile_run(*own, folder="part"), STEPS + 5, signal.SIGINT)
    assert STEPS < saved(tmp_path, "part")["global_step"] < 2 * STEPS
    tile_run(*own, "resume=true", folder="part").fit()
    assert differences(saved(tmp_path, "part"), saved(tmp_path, "whole")) == []


def test_a_run_may_go_on_with_other_workers(tile_run, tmp_path):
    """And so no weight depends on the workers."""
    tile_run("data.resident=false", "data.workers=0", folder="whole").fit()
    interrupt(tile_run("data.resident=false", "data.workers=2", folder="part"), STEPS + 5)
    tile_run("data.resident=false", "data.workers=0", "resume=true", folder="part").fit()
    left = differences(saved(tmp_path, "part"), saved(tmp_path, "whole"))
    assert [d for d in left if "data.workers" not in d] == []


@pytest.mark.parametrize("workers", [0, 2])
def test_accumulated_micro_batches_see_the_crops_of_the_whole_batch(tile_run, workers):
    def views(accumulate):
        run = tile_run(
            "data.resident=false", f"data.workers={workers}", f"trainer.accumulate_grad_batches={accumulate}",
            folder=f"a{accumulate}",
        )  # fmt: skip
        run.loader.sampler.set_epoch(1)
        return [(images, labels) for images, labels, _ in run.loader]

    whole, micro = views(1), views(2)
    assert [len(y) for _, y in whole] == [4] * STEPS and [len(y) for _, y in micro] == [2] * 2 * STEPS
    for i, (images, _) in enumerate(whole):
        for view in range(2):
            parts = [micro[2 * i + k][0][view] for k in range(2)]
            assert torch.equal(torch.cat(parts), images[view])


def test_accumulated_and_interrupted_in_mid_epoch(tile_run, tmp_path):
    own = ("data.resident=false", "data.workers=0", "batch_size=8", "trainer.accumulate_grad_batches=2")
    tile_run(*own, folder="whole").fit()
    interrupt(tile_run(*own, folder="part"), STEPS + 5)  # 10 micro-batches an epoch
    tile_run(*own, "resume=true", folder="part").fit()
    assert differences(saved(tmp_path, "part"), saved(tmp_path, "whole")) == []


def test_views_of_an_image_change_with_epoch_and_seed(tile_run):
    runs = [tile_run("data.resident=false", "data.workers=0", f"seed={seed}", folder=f"s{seed}") for seed in (0, 1)]

    def first(seed, epoch):
        sampler = runs[seed].loader.sampler
        sampler.order = lambda: torch.arange(8)
        sampler.set_epoch(epoch)
        return next(iter(runs[seed].loader))[0]

    one = first(0, 0)
    assert one[0].dtype == torch.uint16 and one[0].shape == (4, 13, 16, 16)
    assert torch.equal(one[0], first(0, 0)[0])
    for other in (first(0, 1), first(1, 0), one[::-1]):
        assert not torch.equal(one[0].int(), other[0].int())


def test_views_picture_shows_each_image_above_its_views(tile_run, tmp_path):
    """Of a batch of 4 there are 4, from 13 channels the three of data.show."""
    tile_run("data.resident=false", "data.workers=0", "data.show=[12,5,0]")
    with Image.open(tmp_path / "run" / "views.png") as picture:
        pixels = np.array(picture)
    tile = pixels.shape[0] // 3
    columns = [pixels[3:tile, 60 + tile * i + 10 : 60 + tile * i + tile - 10] for i in range(pixels.shape[1] // tile)]
    assert len([c for c in columns if c.min() < 255]) == 4
    assert pixels.shape[1] < 60 + 5 * tile
