"""A node that asks a language model over HTTP, by the chat API that OpenAI and most model servers have.

``node`` declares the node, ``client`` makes the requests, ``stream`` reads the streamed answers.
"""

from fivestage.nodes.llm.client import (
    ChatClient,
    ChatModel,
    ModelBusyError,
    ModelError,
    ModelUnavailableError,
)
from fivestage.nodes.llm.node import add_llm_node

__all__ = ["ChatClient", "ChatModel", "ModelBusyError", "ModelError", "ModelUnavailableError", "add_llm_node"]
