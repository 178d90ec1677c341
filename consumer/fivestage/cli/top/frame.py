"""Puts the blocks of ``fivestage top`` together, as many lines as a terminal has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.text import Text

from fivestage.cli.rows import PIPE_WIDTH, clean
from fivestage.cli.top.client import StatusError
from fivestage.cli.top.nodes import nodes
from fivestage.cli.top.recent import changes, recent
from fivestage.cli.top.stages import stages
from fivestage.cli.top.summary import header, in_time, load, problems

if TYPE_CHECKING:
    from fivestage.observability.status.model import Status

LEAST_WIDTH: Final = 40
MOST_WIDTH: Final = 120
"""Blocks of figures are not wider; lists are."""
TALL: Final = 32
"""From this height on, there is an empty line between the blocks."""
BLOCKS: Final = 7
"""How many blocks follow another one."""
LEAST_LIST: Final = 3
"""Lines of a list with its heading, where the terminal is not too short even for that."""


def frame(status: Status, width: int | None, height: int | None = None, *, unicode: bool) -> list[Text]:
    """Return the lines of a frame.

    Args:
        status: The document of the service.
        width: Of the terminal, where longer lines are cut; None if there is none.
        height: How many lines there may be: nodes and the two lists at the end are shortened. None for all.
        unicode: Whether more than ASCII may be drawn.

    Raises:
        StatusError: the document is not what this version reads.
    """
    try:
        lines = _lines(status, width or PIPE_WIDTH, height, unicode=unicode)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise StatusError(
            f"the status is not one that this version can show ({type(error).__name__}: {error}): use the "
            "fivestage of the service"
        ) from None
    if height is not None and len(lines) > height:
        more = len(lines) - height + 1
        lines = [*lines[: height - 1], Text(f"{more} more lines: fivestage top --once prints all", "dim")]
    for line in lines:
        line.plain = clean(line.plain)  # names and texts come from elsewhere
        if width is not None:
            line.truncate(width, overflow="ellipsis" if unicode else "crop")
    return lines


def _lines(status: Status, width: int, height: int | None, *, unicode: bool) -> list[Text]:
    room = min(max(width, LEAST_WIDTH), MOST_WIDTH)
    gap = height is None or height >= TALL
    before = [
        header(status, room),
        problems(status, None if height is None else LEAST_LIST, unicode=unicode),
        in_time(status, room, unicode=unicode),
        stages(status, room, unicode=unicode),
    ]
    after = [load(status, room)]
    taken = sum(map(len, before + after)) + gap * BLOCKS
    least = 2 * LEAST_LIST
    most = None if height is None else max(LEAST_LIST, height - taken - least)
    blocks = [*before, nodes(status, room, most), *after]
    lists = [recent(status, width, unicode=unicode), changes(status)]
    if height is not None:
        lists = _shortened(lists, height - sum(map(len, blocks)) - gap * BLOCKS)
    return _joined(blocks + lists, gap=gap)


def _joined(blocks: list[list[Text]], *, gap: bool) -> list[Text]:
    """All blocks that have lines, with an empty line between them if there is a *gap*."""
    lines: list[Text] = []
    for block in filter(None, blocks):
        lines += [Text(), *block] if lines and gap else block
    return lines


def _shortened(lists: list[list[Text]], room: int) -> list[list[Text]]:
    """The two lists, cut to *room* lines together: each gets half, and what the other one does not need."""
    first, second = lists
    half = max(LEAST_LIST, room // 2)
    first = first[: max(half, room - min(len(second), half))]
    return [first, second[: max(0, room - len(first))]]
