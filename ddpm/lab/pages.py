"""The environment of the page templates."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

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
