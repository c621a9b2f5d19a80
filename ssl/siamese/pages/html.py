"""The skeleton of a page, its style, and escaping: everything that comes from files passes through `text`."""

import html
from collections.abc import Iterable, Sequence
from importlib.resources import files

# No script at all, no network: pictures are data URIs, the style stands in the page.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
GENERATOR = "siamese report"
REFRESH = 30  # seconds between two loads of the page of a running training


def text(value: object) -> str:
    """A value as HTML text or as an attribute's value; control characters and lone surrogates are replaced."""
    shown = str(value).encode("utf-8", "replace").decode("utf-8")
    return html.escape("".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in shown))


def page(title: str, body: Iterable[str], refresh: bool = False) -> str:
    """A whole document.

    Args:
        title: plain text.
        body: HTML.
        refresh: load it again every `REFRESH` seconds.
    """
    again = f'<meta http-equiv="refresh" content="{REFRESH}">\n' if refresh else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="generator" content="{GENERATOR}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n{again}'
        f"<title>{text(title)}</title>\n<style>\n{style()}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def style() -> str:
    """The style sheet of every page."""
    return files("siamese.pages").joinpath("style.css").read_text(encoding="utf-8")


def is_page(content: str) -> bool:
    """Whether a file that begins so was written by `page`."""
    return content.startswith("<!DOCTYPE html>") and f'content="{GENERATOR}"' in content[:1000]


def section(title: str, body: Iterable[str], note: str = "") -> str:
    """A headed part of the page; nothing if the body is empty.

    Args:
        title, note: plain text.
    """
    parts = [part for part in body if part]
    if not parts:
        return ""
    told = f'<p class="note">{text(note)}</p>' if note else ""
    return f"<section>\n<h2>{text(title)}</h2>\n{told}\n" + "\n".join(parts) + "\n</section>"


def note(line: str) -> str:
    """A small line of plain text."""
    return f'<p class="note">{text(line)}</p>' if line else ""


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], strong: int | None = None, best: Sequence[int | None] = ()
) -> str:
    """A table that scrolls within itself; the first column is text, the others are figures.

    Args:
        head, rows: plain text.
        strong: the row to stress.
        best: for each column the row with the best figure, or None.
    """
    lines = ["<tr>" + "".join(f'<th scope="col">{text(cell)}</th>' for cell in head) + "</tr>"]
    for i, row in enumerate(rows):
        cells = [f'<th scope="row">{text(row[0])}</th>']
        for j, cell in enumerate(row[1:], 1):
            top = j < len(best) and best[j] == i
            cells.append(f"<td>{f'<b>{text(cell)}</b>' if top else text(cell)}</td>")
        lines.append(f"<tr{' class=strong' if i == strong else ''}>{''.join(cells)}</tr>")
    return '<div class="scroll"><table>\n' + "\n".join(lines) + "\n</table></div>"


def pairs(rows: Iterable[tuple[str, str]]) -> str:
    """Names and values, one below the other."""
    return '<dl class="pairs">' + "".join(f"<dt>{text(k)}</dt><dd>{text(v)}</dd>" for k, v in rows if str(v)) + "</dl>"


def folded(title: str, body: str) -> str:
    """A part that opens on a click.

    Args:
        title: plain text.
        body: HTML.
    """
    return f"<details><summary>{text(title)}</summary>\n{body}\n</details>"


def code(content: str) -> str:
    """Plain text as it stands in a file or on a command line."""
    return f'<pre class="scroll">{text(content)}</pre>'
