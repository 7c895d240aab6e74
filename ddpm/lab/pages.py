"""Templates of pages: where they are, and what they have in common."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ddpm.lab.charts import DASHES, PALETTE


def environment(*folders: Path) -> Environment:
    """What templates are made with.

    Text is escaped, a name that is not given is an error, and every template can extend `base.html.jinja`: that is
    where the head, the colours and the macros `key` and `chart` are. `key` looks up the style of a name in `styles`.

    Args:
        folders: of templates, before the one with the base.
    """
    templates = Environment(
        loader=FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals |= {"palette": PALETTE, "dashes": DASHES}
    return templates
