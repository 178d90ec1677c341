"""``fivestage run support.chatty:app``: a user's module that turns on all logging."""

from __future__ import annotations

import logging

import aiokafka.conn
import aiokafka.producer.producer  # noqa: F401 - its logger exists then

from support.apps import load as app

__all__ = ["app"]

logging.basicConfig(level=logging.DEBUG)
for _name in [None, *logging.root.manager.loggerDict]:
    logging.getLogger(_name).setLevel(logging.DEBUG)
