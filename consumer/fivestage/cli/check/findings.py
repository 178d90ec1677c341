"""Looks for declarations that cannot work, or that have no effect."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fivestage.cli.check.uses import is_coroutine_function, resources_in, wrong_uses
from fivestage.errors import ConfigurationError
from fivestage.nodes.decision import GENERAL, LAST_RESORT, candidate_groups
from fivestage.nodes.intent import INTENTS
from fivestage.pipeline.resource import no_resource
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fivestage.pipeline.node import Handler
    from fivestage.pipeline.pipeline import Pipeline
    from fivestage.settings import Settings

DECLARED: Final = tuple(one for one in StageType if one is not StageType.PROCESSING)
"""The stages that have a function; processing calls nodes."""


@dataclass(slots=True)
class Findings:
    """What was found, in sentences without a full stop."""

    errors: list[str] = field(default_factory=list)
    """What cannot work."""
    warnings: list[str] = field(default_factory=list)
    """What has no effect, or fails for some queries."""


def find(app: Pipeline) -> Findings:
    """Look for what cannot work in an app."""
    found = Findings()
    for title, handler in _handlers(app):
        found.errors += _wrong_uses(app, title, handler)
    if is_builtin(app.stage(StageType.DECISION)):
        _look_at_intents(app, found)
    if not is_builtin(app.stage(StageType.VALIDATION)):
        found.warnings += [
            f"node {name}: its validate is never called: only the built-in validation calls it, and this app "
            "has its own"
            for name, node in app.nodes.items()
            if node.validate is not None and not node.is_builtin
        ]
    return found


def wrong_settings(app: Pipeline, settings: Settings) -> Iterator[str]:
    """What is wrong with the settings of nodes, as the start of the service would say it."""
    try:
        settings.for_nodes(app)
    except ConfigurationError as error:
        yield str(error)


def is_builtin(handler: Handler) -> bool:
    """Whether a function is one of those that a Pipeline starts with."""
    return str(getattr(handler.call, "__module__", "")).startswith("fivestage.nodes.")


def _handlers(app: Pipeline) -> Iterator[tuple[str, Handler]]:
    """The functions of the stages, of the nodes, and those that check a node's answer, with their titles."""
    for stage_type in DECLARED:
        yield f"stage {stage_type}", app.stage(stage_type)
    for name, node in app.nodes.items():
        yield f"node {name}", node.handler
        if node.validate is not None:
            yield f"node {name}, its validate", node.validate


def _wrong_uses(app: Pipeline, title: str, handler: Handler) -> Iterator[str]:
    """What is wrong with the resources that a function mentions."""
    yield from (f"{title}: {no_resource(value, name)}" for name, value in wrong_uses(handler.call))
    on_loop = handler.is_async or is_coroutine_function(handler.call)  # inside of a def that returns its call
    for resource in resources_in(handler.call):
        if app.resources.get(resource.name) is not resource:
            yield (
                f"{title}: uses the resource {resource.name}, which belongs to another Pipeline; "
                "declare it with @app.resource of this one"
            )
        elif resource.is_async and not on_loop:
            yield (
                f"{title}: is a def, which runs in a thread, and uses the resource {resource.name}, which is "
                "an async def and belongs to an event loop; make the function an async def, or the resource "
                "a def"
            )


def _look_at_intents(app: Pipeline, found: Findings) -> None:
    """Compare the intents of the nodes with those that queries have; the built-in decision goes by them."""
    known = INTENTS if is_builtin(app.stage(StageType.INTENT)) else None
    for name, node in app.nodes.items():
        if node.is_builtin or name == LAST_RESORT:
            continue
        if not node.intents:
            found.errors.append(
                f"node {name}: is never chosen: the built-in decision goes by intents, and it has none; add "
                f'intents={{"{GENERAL}"}}, or declare your own @app.decision'
            )
        elif known is not None and (unknown := sorted(node.intents.difference(known))):
            is_never = len(unknown) == len(node.intents)
            effect = "is never chosen" if is_never else f"is not chosen for {', '.join(unknown)}"
            (found.errors if is_never else found.warnings).append(
                f"node {name}: {effect}: the built-in intent stage knows {', '.join(known)}; use one of "
                "these, or declare your own @app.intent"
            )
    missing = [one for one in known or () if not candidate_groups(app.nodes, one)]
    if missing:
        all_missing = len(missing) == len(INTENTS)
        (found.errors if all_missing else found.warnings).append(
            f"no node takes the intents {', '.join(missing)}: these queries end as errors; add a node with "
            f'intents={{"{GENERAL}"}} for what no other node takes'
        )
    if known is None and not app.nodes:
        found.errors.append("there is no node: declare one with @app.node(name, intents={...})")
