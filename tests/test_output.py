"""Streams and console."""

import io

from siamese.output import Unfailing, console


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
