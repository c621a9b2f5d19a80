import pytest
import torch
from split_cases import SPLIT, part

from siamese import factory
from siamese.data import Loader, LoaderConfig, Split, loading
from siamese.data import sets as data_sets
from siamese.errors import UserError


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_image_stops_or_is_skipped_and_counted(photos, resident, workers):
    bad = photos / "bee" / "2.png"
    bad.write_bytes(bad.read_bytes()[:60])
    data = data_sets.folder("folder", str(photos), 16, "stop", **SPLIT)
    with pytest.raises(UserError, match=str(bad)):
        list(Loader(data.pretrain, 6, shuffle=False, resident=resident, workers=workers))
    data = data_sets.folder("folder", str(photos), 16, "skip", **SPLIT)
    loader = Loader(data.pretrain, 6, shuffle=False, resident=resident, workers=workers)
    batches = list(loader)
    assert loader.skipped == {str(bad)}
    labels = torch.cat([y for _, y, _ in batches])
    assert len(labels) == 18  # batches keep their size: a neighbour stands in, without a label
    assert labels[8] == -1


def test_resident_and_streamed_give_the_same_batches(photos):
    data = data_sets.folder("folder", str(photos), 16, "stop", **SPLIT)
    both = [Loader(data.pretrain, 4, True, resident, workers=1, seed=3) for resident in (True, False)]
    for epoch in (0, 1):
        for loader in both:
            loader.sampler.set_epoch(epoch)
        for a, b in zip(*both, strict=True):
            for x, y in zip(a, b, strict=True):
                assert torch.equal(x, y)


def test_order_follows_seed_and_epoch_and_drops_the_rest():
    loader = Loader(part(), 32, shuffle=True, resident=True, seed=0)
    assert len(loader) == 3
    first = [y for _, y, _ in loader]
    assert [len(y) for y in first] == [32, 32, 32]
    loader.sampler.set_epoch(1)
    assert not all(torch.equal(a, b[1]) for a, b in zip(first, loader, strict=True))
    loader.sampler.set_epoch(0)
    assert all(torch.equal(a, b[1]) for a, b in zip(first, loader, strict=True))


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_batches_of_all_ranks_are_those_of_one_process(monkeypatch, ranks):
    numbered = Split(torch.arange(100, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 3, 2, 2), torch.zeros(100))
    single = list(Loader(numbered, 32, shuffle=True, resident=True, seed=3))
    shares = []
    for r in range(ranks):
        monkeypatch.setattr(loading, "rank", lambda r=r: r)
        monkeypatch.setattr(loading, "world_size", lambda: ranks)
        shares.append(list(Loader(numbered, 32 // ranks, shuffle=True, resident=True, seed=3)))
    assert {len(share) for share in shares} == {len(single)}
    for batch, *parts in zip(single, *shares, strict=True):
        assert torch.equal(batch[0], torch.cat([p[0] for p in parts]))


def test_a_look_at_the_first_batch_leaves_the_next_epoch_whole():
    loader = Loader(part(), 20, shuffle=True, resident=True)
    next(iter(loader))
    assert len(list(loader)) == 5


def test_a_probe_sees_every_image_in_order():
    loader = Loader(part(), 32, shuffle=False, resident=True)
    assert torch.equal(torch.cat([y for _, y, _ in loader]), part().labels)


def test_an_interrupted_epoch_goes_on_where_it_was():
    loader = Loader(part(), 20, shuffle=True, resident=True)
    whole = [y for _, y, _ in loader]
    iterator = iter(loader)
    next(iterator), next(iterator)
    state = loader.state_dict()
    other = Loader(part(), 20, shuffle=True, resident=True)
    other.load_state_dict(state)
    rest = [y for _, y, _ in other]
    assert len(rest) == 3
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], rest, strict=True))
    assert len(list(other)) == 5  # the next epoch is whole


def test_residence_is_chosen_by_size_and_can_be_set():
    p = part(100, size=100)  # 3 MB
    for resident, limit, expected in (("auto", 3, True), ("auto", 2, False), (True, 2, True), (False, 5, False)):
        chosen = LoaderConfig(resident, limit, 0, torch.device("cpu"), 0)
        assert chosen.keeps_resident(p) is expected
        assert ("resident on cpu" in chosen.describe(p)) is expected


def test_all_splits_of_files_show_the_same_pixels():
    p = part(100, size=100)  # 3 MB
    for decodes, expected in ((True, False), (False, True)):  # what needs no decoding is squares either way
        p.images.decodes = decodes
        chosen = LoaderConfig("auto", 5, 0, torch.device("cpu"), 0, whole_mb=6)
        assert chosen.keeps_resident(p) is expected
    p.images.decodes = True
    assert "another split takes 6.0 MB > data.resident_mb=5" in chosen.describe(p)


def test_auto_keeps_arrays_in_a_quarter_of_a_gpus_free_memory(monkeypatch):
    """Of files it does not look at the GPU: resident or streamed, they show other pixels."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (40_000_000_000, 80_000_000_000))
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert factory.resident_mb(gpu, decodes=False) == 10_000
    assert factory.resident_mb(gpu, decodes=True) == factory.resident_mb(cpu, decodes=False) == 2_000


def test_skipped_files_are_named_whole(photos):
    """A name may hold what a message holds."""
    broken = photos / "ant\t1.jpg"
    broken.write_bytes(b"no image")
    split = data_sets.folder("folder", str(photos), 16, "skip", labels="none", val_fraction=None).pretrain
    loader = Loader(split, 4, False, False, workers=0)
    list(loader)
    assert str(broken) in loader.skipped
