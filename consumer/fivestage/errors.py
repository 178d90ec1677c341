"""The errors of fivestage.

::

    FivestageError
    ├── ConfigurationError      settings, topics or permissions are wrong; exit code 2
    │   └── AccessError         Kafka rejected this client's credentials, or the TLS handshake failed
    ├── InvalidAppError         the Pipeline cannot run as it was declared
    ├── ResourceError           a resource could not be opened in time, or is used where it is not open
    ├── NodeError               a stage failed; the class name becomes ``error_type`` of its StageResult
    │   ├── NoNodeError         no node is registered for the intent, or the decision named an unknown node
    │   └── Unanswerable        raised by a node for a query without an answer; not a failure of the node
    ├── BrokerError             Kafka cannot be used any more; the process exits, and no query is lost
    │   ├── PublishError        an event was not acknowledged in time
    │   └── FencedError         another process joined the group with the same group_instance_id
    ├── ExecutorError           stages and nodes can no longer be run; the process exits
    └── DrainTimeoutError       shutdown exceeded its time limit
"""


class FivestageError(Exception):
    """Base of all errors raised by fivestage."""


class ConfigurationError(FivestageError):
    """Settings, topics or permissions must be corrected first. The text says which, and how."""


class AccessError(ConfigurationError):
    """Kafka rejected this client's credentials, or the TLS handshake failed. The text says why."""


class InvalidAppError(FivestageError):
    """A Pipeline cannot run as it was declared. The text says why."""


class ResourceError(FivestageError):
    """A resource could not be opened, or is used where it is not open. The text says which and why."""


class NodeError(FivestageError):
    """A stage failed."""


class NoNodeError(NodeError):
    """No node is registered for the intent, or for the name that the decision stage chose."""


class Unanswerable(NodeError):  # noqa: N818 - describes the query, not a fault
    """Raised by a node for a query that has no answer, such as a question that contains an unknown unit.

    The stage ends as an error with the class name as its ``error_type``, as for any exception. But no other
    node is tried, and neither the node's breaker nor its health counts it as a failure. Subclasses, and the
    exceptions named in ``@app.node(..., not_failures=...)``, have the same effect.
    """


class BrokerError(FivestageError):
    """Kafka cannot be used any more: the process must be restarted."""


class PublishError(BrokerError):
    """An event could not be published; its query was not committed and will be read again."""


class FencedError(BrokerError):
    """Another process joined the group with the same ``kafka.group_instance_id``."""


class ExecutorError(FivestageError):
    """The executor cannot run stages and nodes any more: the process must be restarted."""


class DrainTimeoutError(FivestageError):
    """Queries in flight did not end within the time limit of the shutdown."""
