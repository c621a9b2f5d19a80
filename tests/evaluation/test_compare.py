import copy
import json

import pytest
from rich.console import Console

from siamese.errors import UserError
from siamese.evaluation.compare import _cell, _table, compare
from siamese.output import print_table


def test_runs_side_by_side(tmp_path, capsys):
    for method, base in (("byol", 0.9), ("moco", 0.8)):
        for seed in range(3):
            folder = tmp_path / f"{method}{seed}"
            folder.mkdir()
            top1 = base + 0.01 * seed
            one = {
                "schema": 2, "method": method, "backbone": "small", "epochs": 3, "data": "digits", "seed": seed,
                "ckpt_sha256": f"{method}{seed}",
                "results": {"digits": {"rows": {method: {
                    "knn": {"top1": top1}, "unlabelled": {"lidar": 3.0},
                    "lowshot": {"1%": {"linear": {"mean": 0.5 + 0.1 * seed}}},
                }}}},
            }  # fmt: skip
            (folder / "results.json").write_text(json.dumps(one))
    folders = [str(tmp_path / f"{m}{s}") for m in ("byol", "moco") for s in range(3)]
    console = Console(width=160)
    values = compare(folders, console)
    assert values["byol, small, 3 epochs on digits"]["digits knn"] == pytest.approx([0.9, 0.91, 0.92])
    out = capsys.readouterr().out
    assert "91.00 ± 2.48" in out  # 4.303 * 0.01 / sqrt(3)
    assert (
        "digits knn: byol, small, 3 epochs on digits - moco, small, 3 epochs on digits: +10.00 points, exceeds" in out
    )
    assert "+0.00 points, lies within" in out
    compare([folders[0], folders[3]], console)
    assert "cannot be judged: one seed" in capsys.readouterr().out
    for wrong in (5, [1]):
        with pytest.raises(UserError, match="no readable results.json"):
            compare(wrong, console)
    with pytest.raises(UserError, match="nothing to compare"):
        compare([], console)
    with pytest.raises(UserError, match="holds one checkpoint twice"):
        compare([folders[0], folders[0]], console)
    with pytest.raises(UserError, match="no readable results.json"):
        compare([str(tmp_path)], console)
    other = json.loads((tmp_path / "byol1" / "results.json").read_text())
    (tmp_path / "byol1" / "results.json").write_text(json.dumps({**other, "seed": 0}))
    with pytest.raises(UserError, match="holds one seed twice"):
        compare(folders[:3], console)
    (tmp_path / "byol1" / "results.json").write_text(json.dumps({**other, "seed": 0, "recipe": "abc"}))
    values = compare(folders[:3], console)  # of another recipe: a row of its own
    assert values["byol, small, 3 epochs on digits [abc]"]["digits knn"] == [0.91]
    assert values["byol, small, 3 epochs on digits [None]"]["digits knn"] == [0.9, 0.92]
    for k in (20, 200):
        judged = {**other, "protocols": {"knn": {"what": "", "settings": {"k": k}}}}
        (tmp_path / f"moco{k // 200}" / "results.json").write_text(json.dumps({**judged, "seed": k}))
    with pytest.raises(UserError, match=r"moco1: protocol knn was \{'k': 200\}, in .*moco0 \{'k': 20\}; evaluate"):
        compare(folders[3:], console)
    for n in (100, 200):
        smaller = copy.deepcopy(other) | {"seed": n, "ckpt_sha256": str(n)}
        smaller["results"]["digits"]["images"] = {"fit": n}
        (tmp_path / f"byol{n // 200}" / "results.json").write_text(json.dumps(smaller))
    with pytest.raises(UserError, match=r"byol1: images of digits was \{'fit': 200\}, in .*byol0 \{'fit': 100\}"):
        compare(folders[:2], console)
    for center in (1.0, 0.875):
        seen = copy.deepcopy(other) | {"seed": int(center), "ckpt_sha256": str(center)}
        seen["results"]["digits"]["view"] = {"size": 8, "center": center, "interpolation": "bilinear", "mean": [center]}
        (tmp_path / f"byol{int(center)}" / "results.json").write_text(json.dumps(seen))
    with pytest.raises(UserError, match=r"view of digits by byol, .* was \{'size': 8, 'center': 1.0, .* evaluate both"):
        compare(folders[:2], console)
    (tmp_path / "byol0" / "results.json").write_text('{"schema": 1}')
    with pytest.raises(UserError, match="has schema 1, 2 is known"):
        compare([folders[0]], console)


@pytest.mark.parametrize("top1", ["x", None, [1], 10**400, float("nan"), -5, 2.0, True])
def test_impossible_figure_in_results_is_refused(tmp_path, top1):
    one = {"schema": 2, "method": "moco", "backbone": "small", "epochs": 3, "data": "digits", "seed": 0,
           "ckpt_sha256": "a", "results": {"digits": {"rows": {"moco": {"knn": {"top1": top1}}}}}}  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(one))
    with pytest.raises(UserError, match="is not one of eval_linear.py"):
        compare([str(tmp_path)], Console())


@pytest.mark.parametrize(
    "change", [{"backbone": "\x1b[31m"}, {"results": 3}, {"seed": "x"}, {"method": "other"}, {"results": {}}]
)
def test_damaged_field_of_results_is_refused(tmp_path, change):
    one = {"schema": 2, "method": "moco", "backbone": "small", "epochs": 3, "data": "digits", "seed": 0,
           "ckpt_sha256": "a", "results": {"digits": {"rows": {"moco": {"knn": {"top1": 0.5}}}}}}  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(one))
    compare([str(tmp_path)], Console())
    (tmp_path / "results.json").write_text(json.dumps({**one, **change}))
    if change == {"results": {}}:
        return  # nothing to show is no harm
    with pytest.raises(UserError, match="is not one of eval_linear.py"):
        compare([str(tmp_path)], Console())


def test_no_figure_is_cut_on_a_narrow_terminal(capsys):
    many = {f"digits {i}": [0.9 + i / 1000, 0.92] for i in range(9)}
    for values in ({"a, small": many, "b, small": many}, {f"{n} {'long name' * 3}": {"knn": [0.9]} for n in "abc"}):
        columns = list(dict.fromkeys(c for row in values.values() for c in row))
        print_table(Console(width=80), _table(values, dict.fromkeys(values, 2), columns))
        out = capsys.readouterr().out
        assert "…" not in out and max(map(len, out.splitlines())) <= 80
        for row in values.values():
            assert all(_cell(row[c]) in out for c in columns)
