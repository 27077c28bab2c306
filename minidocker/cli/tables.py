"""Tables as docker prints them, and `--format`, which gives the same fields another shape."""

from collections.abc import Mapping, Sequence

_NARROWEST = 10
_GAP = 3

Row = Mapping[str, str]


def columns(rows: Sequence[Sequence[str]], wide: int = _NARROWEST) -> str:
    """Return the rows with their cells under each other, none narrower than `wide`; the last of a row is not padded."""
    if not rows:
        return ""
    widths = [max(wide, *(len(cell) + _GAP for cell in column)) for column in zip(*rows, strict=True)]
    widths[-1] = 0
    return "".join("".join(map(str.ljust, row, widths)) + "\n" for row in rows)


def table(headers: Mapping[str, str], names: Sequence[str], rows: Sequence[Row]) -> str:
    """Return a table of the named fields with its line of headers."""
    return columns([[headers[name] for name in names], *([row[name] for name in names] for row in rows)])


def render(headers: Mapping[str, str], names: Sequence[str], rows: Sequence[Row], shape: str = "") -> str:
    """Return the rows as `--format` wants them.

    `shape`: nothing or `table` for the usual table; `table TEMPLATE` for one of the template's columns; `json` for an
    object a line; else a template that is filled in for every row.
    Raises: InvalidArgument for a template that cannot be read.
    """
    if shape in ("", "table"):
        return table(headers, names, rows)
    from minidocker.cli.template import Template

    shape = shape.replace("\\t", "\t").replace("\\n", "\n")
    if shape == "json":
        shape = "{{json .}}"
    if shape.startswith("table "):
        template = Template(shape.removeprefix("table ").strip())
        lines = [template.fill(headers), *map(template.fill, rows)]
        cells = [line.split("\t") for line in lines]
        most = max(map(len, cells))
        return columns([line + [""] * (most - len(line)) for line in cells])
    template = Template(shape)
    return "".join(template.fill(row) + "\n" for row in rows)
