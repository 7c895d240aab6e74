"""The environment of all templates."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from ddpm.evaluation.text_table import align_columns
from ddpm.lab.charts import DASHES, PALETTE


def template_environment() -> Environment:
    """Return the environment of all templates in this package, named as in "probe/probe.html.jinja".

    Text is escaped in templates of HTML, an undefined name is an error, and every page extends `base.html.jinja`, which
    holds the head, the colors and the macros `key` and `chart`. `key` looks up the style of a name in `styles`.
    """
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals |= {"palette": PALETTE, "dashes": DASHES}
    return templates


def render_text(name: str, **values: Any) -> str:
    """Render a template of plain text.

    Cells are separated by tabs; the lines of a table, which ends at a blank line, are aligned in columns.
    """
    text = template_environment().get_template(name).render(**values)
    blocks = [block.split("\n") for block in text.strip("\n").split("\n\n")]
    tables = [align_columns([line.split("\t") for line in block]) if "\t" in block[0] else block for block in blocks]
    return "\n\n".join("\n".join(line.rstrip() for line in table) for table in tables)
