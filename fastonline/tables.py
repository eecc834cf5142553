"""Tables of text, within 80 columns where their cells allow."""

import textwrap

from fastonline.geometry import format_size

_SUFFIXES = "KMGTPE"


def table(rows, align):
    """Lines of rows of text, columns as wide as their widest cell. align: "<" or ">" for each column."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(align))]
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, align, widths, strict=True)).rstrip()
        for row in rows
    ]


def fitted(rows, align, width=None):
    """Lines of rows of text within `width` columns (None: as wide as needed). Columns that do not fit go into further tables,
    each with the first column again."""
    widths = [max(len(row[i]) for row in rows) + 2 for i in range(len(align))]
    parts, used = [[]], widths[0]
    for i in range(1, len(align)):
        if width is not None and parts[-1] and used + widths[i] > width + 2:
            parts.append([])
            used = widths[0]
        parts[-1].append(i)
        used += widths[i]
    lines = []
    for columns in parts:
        lines += [""] if lines else []
        lines += table([[row[0], *(row[i] for i in columns)] for row in rows], align[0] + "".join(align[i] for i in columns))
    return lines


def wrapped(text, width=None, indent=2):
    """Lines of a text within `width` columns (None: one line), those after the first indented."""
    return [text] if width is None else textwrap.wrap(
        text, width, subsequent_indent=" " * indent, break_on_hyphens=False
    )


def html_table(rows):
    """Return `rows` of cells as an HTML table whose first row is the head."""
    from html import escape

    head, *body = ("".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in row)
                   for tag, row in zip(["th", *["td"] * (len(rows) - 1)], rows, strict=True))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{row}</tr>' for row in body)}</tbody></table>"


def bar(parts, width):
    """A bar of `width` characters for (character, number) parts; a part that is not 0 has at least one of them."""
    total, done, drawn = sum(number for _, number in parts), 0, ""
    for character, number in parts:
        done += number
        end = round(done * width / total) if total else 0
        drawn += character * max(int(number > 0), end - len(drawn))
    return drawn[:width].ljust(width, parts[-1][0]) if total else ""


def short(size):
    """A size in at most seven characters: exact where that fits, else with one decimal."""
    text = format_size(size)
    if len(text) <= 5:
        return text
    power = max(0, (size.bit_length() - 1) // 10)
    return f"{size / (1 << 10 * power):.1f}{_SUFFIXES[power - 1]}" if power else text
