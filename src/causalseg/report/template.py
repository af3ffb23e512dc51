"""Jinja templates of pages and cards, with the filters that they share."""

import functools

from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape

from causalseg.errors import list_some
from causalseg.report import format
from causalseg.runs.scores import size_text


@functools.cache  # each is compiled once
def load_template(name: str) -> Template:
    """Return a template of ``report/templates``; what it shows is escaped if it is HTML."""
    environment = Environment(
        loader=PackageLoader("causalseg.report"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {
        "percent": format.format_percent,
        "signed": format.format_signed,
        "interval": format.format_interval,
        "minus": format.subtract,
        "count": format.format_count,
        "domains": format.list_domains,
        "size": size_text,
        "some": list_some,
    }
    return environment.get_template(name)
