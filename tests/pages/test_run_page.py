"""The page of a run, and of several."""

import base64
import html
import io
import json
import re
import subprocess

import numpy as np
import pytest
from pages.page_cases import CHROMIUM, Page, stored_gallery, write_run
from PIL import Image

from siamese.errors import UserError
from siamese.pages.html import POLICY, page, text
from siamese.pages.pictures import embedded, is_uri, thumbnail
from siamese.pages.run_files import read_run
from siamese.pages.run_page import command, run_page
from siamese.pages.several import several_page

EVIL = "</pre></title><script>alert(1)</script><img src=x onerror='alert(2)'>\"'&"

TAGS = {
    *(
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "main",
        "header",
        "h1",
        "h2",
        "h3",
        "p",
        "ul",
        "li",
        "b",
        "span",
    ),
    *("section", "dl", "dt", "dd", "pre", "div", "table", "tr", "th", "td", "figure", "figcaption", "svg", "path"),
    *("text", "circle", "rect", "img", "details", "summary", "footer", "article"),
}


def noise(folder, side=300):
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "views.png")


def test_curves_are_those_of_the_csv(tmp_path):
    run = write_run(tmp_path / "r")
    shown = Page(run_page(read_run(run)))
    (loss,) = shown.lines("loss")
    expected = [((i + 1) / 10, 5 - 0.3 * i + 0.5 * (-1) ** i) for i in range(4, 40, 5)]
    assert loss == [pytest.approx(p, abs=0.08) for p in expected]
    knn, online = shown.lines("accuracy on the validation split, top-1 %")
    assert knn == [pytest.approx((e, 50 + 10 * e), abs=0.5) for e in range(1, 5)]
    assert online == [pytest.approx((e, 30 + 10 * e), abs=0.5) for e in range(1, 5)]
    (rate,) = shown.lines("learning rate")
    assert rate[0] == pytest.approx((0.5, 0.02), abs=0.01)
    assert len(shown.lines("effective rank of the features (RankMe)")[0]) == 4
    assert "collapsed" in shown.text


def test_page_tells_what_ran_and_what_came_out(tmp_path):
    few = {
        "linear_1_label": {"mean": 0.5, "interval95": 0.02},
        "linear_10_labels": 0.75,
        "linear_10_labels_interval95": 0.1,
    }
    run = write_run(tmp_path / "r", summary=few, stored=stored_gallery())
    shown = Page(run_page(read_run(run)))
    for told in (
        "simclr on digits",
        "finished",
        "97.00",
        "90.00",
        "linear 1 label %",
        "50.00 ± 2.00",
        "75.00 ± 10.00",
        "1,234",
        "torch 2.14",
        "siamese train method=simclr",
        "0 of 1 before, 1 of 1 after",
        "PCA",
        "four",
    ):
        assert told in shown.text, told  # fmt: skip
    assert not shown.all("meta", **{"http-equiv": "refresh"})
    assert len(shown.all("img")) == 3
    assert "run_dir=r" not in command(["run_dir=r", "seed=1"])


@pytest.mark.parametrize(("state", "told"), [("running", "running, epoch 3 of 4"), ("failed", "failed after 2 of 4"),
                                             ("interrupted", "interrupted after 2 of 4 epochs")])  # fmt: skip
def test_state(tmp_path, state, told):
    stored = {**stored_gallery(), "state": state, "epoch": 2, "message": "step 7: why"}
    run = write_run(tmp_path / "r", stored=stored, summary={"finished": state == "running"})
    shown = Page(run_page(read_run(run)))
    assert told in shown.text
    assert "step 7: why" in shown.text
    assert len(shown.all("meta", **{"http-equiv": "refresh"})) == (state == "running")
    assert ("raw_pixels" in shown.text) == (state != "running")  # a table of an earlier sitting
    assert read_run(run, active=False).stored.state == ("unfinished" if state == "running" else state)


def test_run_without_a_report_or_a_summary(tmp_path):
    assert "unfinished" in run_page(read_run(write_run(tmp_path / "a", summary=False, rows=[])))
    assert "interrupted" in run_page(read_run(write_run(tmp_path / "b", summary={"finished": False})))
    unlabelled = {"feature_rank": 7.25, "baselines": None, "knn_top1": None, "linear_top1": None}
    assert "7.25" in Page(run_page(read_run(write_run(tmp_path / "c", summary=unlabelled)))).text


def test_nothing_of_a_file_becomes_markup(tmp_path):
    """Of names, values, keys, columns, paths, classes, results."""
    stored = stored_gallery(EVIL)
    stored |= {"message": EVIL, "remarks": [EVIL], "overrides": [EVIL], "notes": [EVIL], "of": EVIL, "updated": EVIL}
    stored["map"] |= {"way": EVIL, "before_note": EVIL}
    stored["evaluations"] = [{"folder": EVIL, "sha256": "a", "command": EVIL, "told": EVIL, "tables": [
        {"data": EVIL, "images": EVIL, "columns": [EVIL], "percent": {EVIL: True},
         "rows": {EVIL: {EVIL: [0.5, None]}}}]}]  # fmt: skip
    config = {"method": {"name": EVIL}, "data": {"name": EVIL, "path": EVIL}, EVIL: EVIL, "init_from": EVIL}
    summary = {"baselines": {EVIL: {EVIL: 0.5}}, "method": EVIL, "device": EVIL, "versions": {EVIL: EVIL},
               "collapsed_at_epoch": 3}  # fmt: skip
    rows = [{"step": 10, "epoch": 1, EVIL: 0.5, "loss": 1.0}]
    folders = [write_run(tmp_path / f"<script>{i}", config, summary, rows, stored) for i in "ab"]
    runs = [read_run(f) for f in folders]
    for content in (run_page(runs[0]), several_page(runs, notes=[EVIL])):
        shown = Page(content)
        assert not shown.all("script")
        assert "alert(1)" in shown.text
        for tag, attributes in shown.elements:
            assert not any(name.startswith("on") for name in attributes), tag
            assert tag in TAGS
        assert all(is_uri(img["src"]) for img in shown.all("img"))


def test_page_fetches_nothing(tmp_path):
    run = write_run(tmp_path / "r", stored=stored_gallery())
    noise(run)
    content = run_page(read_run(run))
    assert not re.search(r"https?://|@import|url\(|<link|<script|srcset", content)
    (policy,) = Page(content).all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"] == POLICY
    assert "default-src 'none'" in POLICY and "script" not in POLICY
    for uri in (i["src"] for i in Page(content).all("img")):
        Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).load()


def test_large_pictures_keep_the_page_small(tmp_path):
    """The largest that a run makes: photographs of noise, and thousands of rows."""
    big = np.random.default_rng(0).integers(0, 256, (104, 224, 224, 3), dtype=np.uint8)
    stored = stored_gallery() | {"pictures": [thumbnail(image) for image in big]}
    near = [{"picture": i, "label": "a", "same": True, "similarity": 1} for i in range(6)]
    stored["queries"] = [{"picture": 9, "label": "b", "before": near, "after": near} for _ in range(8)]
    rows = [{"step": i, "loss": float(i % 17), "lr": 0.1} for i in range(20_000)]
    run = write_run(tmp_path / "r", rows=rows, stored=stored)
    noise(run, 1000)
    assert len(json.dumps(stored)) < 2_000_000
    assert len(run_page(read_run(run)).encode()) < 3_000_000


def test_text_survives_what_html_cannot_hold():
    assert text("a\x00b\udcff<\x1b") == "a\N{REPLACEMENT CHARACTER}b?&lt;\N{REPLACEMENT CHARACTER}"
    page("x\udcff", []).encode()


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("metrics.csv", "loss\n1\n", "no column is named step"), ("metrics.csv", "step,loss\n1,x\n", "damaged"),
        ("metrics.csv", "step,loss\n1,2,3\n", "more values"), ("metrics.csv", "step,loss\n,2\n", "no step"),
        ("summary.json", "{", "damaged"), ("summary.json", "[]", "holds a list"),
        ("summary.json", "[" * 99_999, "damaged"),
        ("report.json", '{"state": "odd"}', "state"), ("report.json", '{"pictures": ["x"]}', "data URI"),
        ("report.json", '{"queries": [{"picture": 3}]}', "missing"), ("config.yaml", "a: [", "damaged"),
        ("config.yaml", "- a", "holds no settings"), ("config.yaml", "a: ${oc.env:HOME}", "interpolation"),
        ("config.yaml", "a: !!python/object/apply:os.system [touch harm]", "damaged"),
        ("config.yaml", "a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n"
         "d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d]", "more than 10,000 values"),
    ],
)  # fmt: skip
def test_damaged_file_is_one_line(tmp_path, file, content, told):
    run = write_run(tmp_path / "r")
    (run / file).write_text(content)
    with pytest.raises(UserError, match=file) as error:
        read_run(run)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_incomplete_last_row_and_damaged_picture_are_no_obstacle(tmp_path):
    run = write_run(tmp_path / "r", rows=[{"step": 1, "loss": 2.0, "lr": 0.1}])
    with (run / "metrics.csv").open("a") as stream:
        stream.write("2,3")
    (run / "views.png").write_bytes(b"<svg onload=alert(1)>")
    found = read_run(run)
    assert len(found.rows) == 1
    assert "views.png cannot be shown" in run_page(found)
    with pytest.raises(ValueError, match="cannot identify"):
        embedded(b"GIF89a")


def test_several_runs_share_charts_and_a_table(tmp_path):
    other = {"optimizer": {"lr": 0.2, "weight_decay": 0.0}, "seed": 1}
    folders = [write_run(tmp_path / "a", stored=stored_gallery()),
               write_run(tmp_path / "b", other, {"knn_top1": 0.8}, stored=stored_gallery()),
               write_run(tmp_path / "c", {"seed": 2}, False)]  # fmt: skip
    shown = Page(several_page([read_run(f) for f in folders]))
    assert len(shown.lines("loss")) == 3
    assert shown.lines("loss")[0] == shown.lines("loss")[2]
    assert len({p["class"] for p in shown.all("path") if p.get("class", "").startswith("line")}) == 3
    table = shown.text[: shown.text.index("Training")]
    for told in ("base learning rate", "seed", "0.2", "90.00", "80.00", "simclr on digits, b", "unfinished"):
        assert told in table, told
    assert "batch size" not in table  # equal in all
    assert len(shown.all("article")) >= 6


@pytest.mark.skipif(CHROMIUM is None, reason="neither chromium nor google-chrome is on PATH")
@pytest.mark.parametrize("width", [400, 1280])
def test_browser_shows_it_without_errors(tmp_path, width):
    """Every picture is decoded, the page is not wider than the window, the console is silent; a script is refused."""
    runs = [write_run(tmp_path / name, stored=stored_gallery("a-long-class-name-without-spaces" * 4)) for name in "ab"]
    noise(runs[0])
    pages = {"one": run_page(read_run(runs[0])), "two": several_page([read_run(r) for r in runs])}
    frame = (
        '<iframe id=f width=WIDE height=900 style="border:0" srcdoc="PAGE"></iframe>'  # a window is 500 wide or more
    )
    measure = (
        "<script>onload=()=>{let d=f.contentDocument;document.body.innerHTML='<p id=found>'+[f.clientWidth,"
        "d.documentElement.scrollWidth,d.images.length,[...d.images].filter(i=>i.naturalWidth>0).length]}</script>"
    )

    def browse(name, content):
        (tmp_path / f"{name}.html").write_text(content)
        return subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0",
             f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"file://{tmp_path / name}.html"],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    for name, content in pages.items():
        done = browse(name, content)
        assert "CONSOLE" not in done.stderr
        assert "simclr on digits" in done.stdout
        framed = frame.replace("WIDE", str(width)).replace("PAGE", html.escape(content)) + measure
        found = re.search('id="found">([0-9,]+)', browse("framed", framed).stdout)
        window, wide, images, decoded = map(int, found[1].split(","))
        assert window == width
        assert wide <= window
        assert images == decoded > 0
    refused = browse("refused", pages["one"].replace("</body>", "<script>document.title='run'</script></body>"))
    assert "Content Security Policy" in refused.stderr
    assert "<title>run" not in refused.stdout
