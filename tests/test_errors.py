"""Messages are one printable line."""

from siamese.errors import UserError


def test_line_breaks_are_removed():
    assert str(UserError("a=1", "two\nlines", "none")) == "a=1: two lines; none"


def test_control_characters_are_replaced():
    assert str(UserError("a=\x1b[31mred", "b\x07", "c")) == "a=?[31mred: b?; c"
