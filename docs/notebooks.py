"""Make the notebooks of the tutorial from its pages: `python docs/notebooks.py`, into docs/notebooks/.

They hold no outputs: whoever opens one runs it. The tests do, and compare what is shown with what the page says.
"""

from __future__ import annotations

import doctest
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

DOCS = Path(__file__).parent
FOLDER = DOCS / "notebooks"
CHAPTERS = "first_pattern", "bounds", "compile", "train", "decode", "select", "many_devices"
PAGES = [DOCS / "tutorial" / f"{name}.md" for name in CHAPTERS]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK_NEARBY = re.compile(r"\]\((?=[\w-]+\.md)")
MODULE = re.compile(r"^[\w.]*\.(?=\w+:)")
LINK_HERE = re.compile(r"^\[As a notebook\]\(.*\)\n", re.MULTILINE)


def cells(examples: list[doctest.Example]) -> Iterator[list[doctest.Example]]:
    """Cut the examples of a block: a cell shows one value, its last."""
    cell: list[doctest.Example] = []
    for example in examples:
        cell.append(example)
        if example.want or example.exc_msg:
            yield cell
            cell = []
    if cell:
        yield cell


def notebook(page: Path) -> nbformat.NotebookNode:
    """A page as a notebook: text, and what its blocks type."""
    text = LINK_HERE.sub("", page.read_text(encoding="utf-8"))
    text = LINK_NEARBY.sub(f"](../{page.parent.name}/", text)
    made = []
    for number, part in enumerate(BLOCK.split(text)):
        if number % 2 == 0:
            made += [new_markdown_cell(part.strip())] if part.strip() else []
            continue
        for cell in cells(doctest.DocTestParser().get_examples(part)):
            code = new_code_cell("".join(example.source for example in cell).strip())
            if cell[-1].exc_msg:
                code.metadata["tags"] = ["raises-exception"]
            made.append(code)
    made.insert(1, new_markdown_cell(f"Made of {page.relative_to(DOCS.parent)} by docs/notebooks.py."))
    for number, cell in enumerate(made):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return new_notebook(cells=made, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def shown(page: Path) -> list[str]:
    """What the page says that each code cell of its notebook shows, of an error its name and message."""
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    parser = doctest.DocTestParser()
    lasts = [cell[-1] for block in blocks for cell in cells(parser.get_examples(block))]
    return [MODULE.sub("", last.exc_msg) if last.exc_msg else last.want for last in lasts]


def main(folder: Path = FOLDER) -> None:
    """Write them all."""
    folder.mkdir(exist_ok=True)
    for page in PAGES:
        target = folder / f"{page.stem}.ipynb"
        target.write_text(nbformat.writes(notebook(page)) + "\n", encoding="utf-8")
        print(target)


if __name__ == "__main__":
    main()
