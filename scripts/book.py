"""Run the whole course and make a book of it: `make book` writes book/index.html and a page for each notebook.

Every notebook is run in a fresh root, two at a time; its pages show what really came out on this machine. A notebook
that fails is named, and makes the book fail.
"""

import concurrent.futures
import html
import os
import re
import shutil
import sys
import time
from typing import Any, NamedTuple

import course

BOOK = f"{course.PROJECT}/book"
NOTEBOOKS = f"{course.PROJECT}/notebooks"
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>minidocker</title>
<style>
body {{ font: 17px/1.6 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto; padding: 0 1rem;
       color: #1b1f24; background: #fff }}
li {{ margin: .9rem 0 }}
a {{ color: #0b5cad; font-weight: 600; text-decoration: none }} a:hover {{ text-decoration: underline }}
p, li span {{ color: #444c56 }} li span {{ display: block }}
@media (prefers-color-scheme: dark) {{ body {{ color: #e6edf3; background: #0d1117 }} a {{ color: #6cb6ff }}
  p, li span {{ color: #9da7b1 }} }}
</style></head><body>
<h1>minidocker: the course</h1>
<p>Each page is a notebook as it ran from top to bottom on one machine. To run them yourself: <code>make lab</code>.</p>
<ol start="0">
{entries}
</ol></body></html>
"""


class Page(NamedTuple):
    """A notebook's page: where it is, what it is called, its first sentences; `failure` is "" where it ran."""

    name: str
    title: str
    summary: str
    seconds: float
    failure: str = ""


def make(path: str) -> Page:
    """Run one notebook and write its page."""
    import nbformat
    from nbclient.exceptions import CellControlSignal

    name = os.path.basename(path).removesuffix(".ipynb")
    title, summary = opening(nbformat.read(path, as_version=4))
    started = time.monotonic()
    with course.fresh_root() as environment:
        try:
            book = course.run(path, environment)
        except (CellControlSignal, RuntimeError) as failure:
            return Page(name, title, summary, time.monotonic() - started, str(failure))
    with open(f"{BOOK}/{name}.html", "w", encoding="utf-8") as file:
        file.write(page(book, title))
    return Page(name, title, summary, time.monotonic() - started)


def page(book: Any, title: str) -> str:
    """Return an executed notebook as one HTML page that needs nothing from elsewhere."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        template_name="lab",
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        mathjax_url="",
        require_js_url="",
        jquery_url="",
        widget_renderer_url="",
    )
    text, _ = exporter.from_notebook_node(book, resources={"metadata": {"name": f"minidocker: {title}"}})
    text = re.sub(r'<script[^>]*src="[^"]*"[^>]*>\s*</script>', "", text)
    text = re.sub(r'href="(?:\.\./notebooks/)?(\d\d_\w+)\.ipynb', r'href="\1.html', text)
    return text.replace("<main>", '<main><p style="padding:1rem 0 0 1rem"><a href="index.html">Contents</a></p>', 1)


def opening(book: Any) -> tuple[str, str]:
    """Return a notebook's title, and the first paragraph after it."""
    prose = "\n\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    title = re.search(r"^# +(.+)$", prose, re.MULTILINE)
    paragraphs = [part for part in re.split(r"\n\s*\n", prose) if part.strip() and not part.startswith("#")]
    return (title[1] if title else "untitled", paragraphs[0].replace("\n", " ") if paragraphs else "")


def contents(pages: list[Page]) -> str:
    """Return the contents page."""
    entries = "\n".join(
        f'<li><a href="{done.name}.html">{html.escape(re.sub(r"^[0-9]+ *[.·:]? *", "", done.title))}</a>'
        f"<span>{html.escape(re.sub(r'[*`]', '', done.summary))}</span></li>"
        for done in pages
        if not done.failure
    )
    return _PAGE.format(entries=entries)


def main() -> int:
    """Make the book; return 1 where a notebook failed."""
    shutil.rmtree(BOOK, ignore_errors=True)
    os.makedirs(BOOK)
    paths = sorted(f"{NOTEBOOKS}/{name}" for name in os.listdir(NOTEBOOKS) if name.endswith(".ipynb"))
    pages = []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for done in pool.map(make, paths):
            pages.append(done)
            print(f"  {done.name:<28} {'failed' if done.failure else 'ran'} in {done.seconds:.0f} s", flush=True)
    with open(f"{BOOK}/index.html", "w", encoding="utf-8") as file:
        file.write(contents(pages))
    for done in pages:
        if done.failure:
            print(f"\n{done.name}:\n{done.failure}")
    print(f"the book is {os.path.relpath(BOOK)}/index.html")
    return 1 if any(done.failure for done in pages) else 0


if __name__ == "__main__":
    sys.exit(main())
