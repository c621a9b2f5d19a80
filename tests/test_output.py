"""Streams and console."""

import io
import re

import pytest
from paths import ROOT
from rich.table import Table

from siamese.output import Unfailing, console, print_table


class Closed(io.StringIO):
    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


def test_failing_stream_is_reported_once():
    told = io.StringIO()
    stream = Unfailing(Closed(), told)
    assert stream.write("abc") == 3
    stream.write("d")
    stream.flush()
    assert told.getvalue().count("the run goes on without it") == 1
    Unfailing(Closed(), None).write("x")
    assert stream.encoding is None  # other attributes are the stream's


def test_console_prints_markup_unchanged(capsys):
    console().print("out[/x] [red] :smile:")
    assert capsys.readouterr().out == "out[/x] [red] :smile:\n"


@pytest.mark.parametrize("columns", ["80", "40"])
def test_title_of_a_table_is_a_line(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    title = "top-1 % or mAP %, mean ± half of the 95 % interval over seeds"
    table = Table("a", title=title)
    table.add_row("1")
    print_table(console(), table)
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == title
    assert len(rest) == 5 and max(map(len, rest)) < 10
    assert table.title == title


def test_tables_with_a_title_are_printed_so():
    """`Console.print` would wrap the title to the width of the table."""
    makers = {"report.py": "run.py", "tables.py": "evaluator.py"}  # who makes a table -> who prints it
    for file in (ROOT / "ssl" / "siamese").rglob("*.py"):
        if re.search(r"\bTable\(title=", file.read_text()):
            assert "print_table(" in (file.with_name(makers.get(file.name, file.name))).read_text(), file
