"""``fivestage check``: what an app declares, and what of it cannot work.

``findings`` looks for what cannot work, ``uses`` finds the resources that code mentions, ``view`` prints.
"""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from fivestage.cli.common import ConfigOption, JsonOption, load_settings


def check(
    target: Annotated[str, typer.Argument(metavar="MODULE:APP", help="Your Pipeline.")],
    as_json: JsonOption = False,  # noqa: FBT002
    config: ConfigOption = None,
) -> None:
    """List the stages, nodes and resources of your app; exit code 1 if one of them cannot work.

    Imports the app; opens no resource and runs no stage. With --config, also checks the settings of nodes.

    Example: `fivestage check myapp:app`

    Example: `fivestage check myapp:app --config fivestage.toml`
    """
    from fivestage.cli.check.findings import find, wrong_settings
    from fivestage.cli.check.view import as_object, print_app
    from fivestage.errors import InvalidAppError
    from fivestage.pipeline.loader import authors_traceback, load_app

    settings = load_settings(config) if config else None
    try:
        app = load_app(target)
    except InvalidAppError as error:
        if error.__cause__ is None:  # there is no such module or app: wrong use
            raise
        if as_json:
            print(json.dumps({"app": target, "works": False, "errors": [str(error)], "warnings": []}))
        print(f"{authors_traceback(error)}fivestage: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    found = find(app)
    if settings is not None:
        found.errors += wrong_settings(app, settings)
    if as_json:
        print(json.dumps({"app": target, **as_object(app, found)}))
    else:
        print_app(app, found)
    if found.errors:
        raise typer.Exit(1)
