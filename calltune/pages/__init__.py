"""The layout and the plots that the steps' HTML pages share.

A page is one file without scripts and without anything to fetch, because it is opened from a folder, from MLflow and in
KFP's sandboxed frame alike.
"""

from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from calltune.errors import UserError


def _source(name: str) -> str:
    """The text of the template `name`, written `<package>/<file>`, as in `components.report/page.html.jinja`."""
    package, _, file = name.partition("/")
    try:
        return files(package).joinpath(file).read_text(encoding="utf-8")
    except (ModuleNotFoundError, FileNotFoundError):
        raise UserError(f"page template {name}: not in this installation; write it as <package>/<file>.html.jinja") from None


def render_page(template: str, **values: Any) -> str:
    """Fill a page's template and return the HTML.

    Args:
        template: `<package>/<file>`; it extends `calltune.pages/layout.html.jinja`.
        values: what the template names. Text is escaped, except :class:`markupsafe.Markup`, such as the plots.

    Raises:
        UserError: the template is not installed.
        jinja2.UndefinedError: the template names a value that was not given.
    """
    environment = Environment(
        loader=FunctionLoader(_source), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(**values)
