"""The errors of fivestage.

::

    FivestageError
    ├── ConfigurationError      something outside the code must be corrected first; exit code 2
    │   └── AccessError         Kafka was reached and rejects this client
    ├── InvalidAppError         the Pipeline cannot run as it was declared
    ├── ResourceError           a resource could not be opened in time, is not open, or is none
    ├── NodeError               a stage returned an invalid value; base of the errors of stages and nodes
    │   ├── NoNodeError         no node handles the intent, or the decision named an unknown node or none
    │   └── Unanswerable        raised by a node for a query without an answer; not a failure of the node
    ├── BrokerError             Kafka cannot be used, or a bus task failed; no query is lost
    │   ├── PublishError        events cannot be published, or were not acknowledged in time
    │   └── FencedError         another process joined the group with the same group_instance_id
    ├── ExecutorError           stages and nodes cannot be run, or too much abandoned code runs on
    └── DrainTimeoutError       queries were still in flight at the end of the drain
"""


class FivestageError(Exception):
    """Base of all errors raised by fivestage."""


class ConfigurationError(FivestageError):
    """Settings, files, packages, topics, permissions or brokers must be corrected; the text says how."""


class AccessError(ConfigurationError):
    """Kafka was reached and rejects this client: its certificate, credentials or security protocol."""


class InvalidAppError(FivestageError):
    """A Pipeline cannot be imported, or cannot run as it was declared. The text says why."""


class ResourceError(FivestageError):
    """A resource could not be opened, is not open where it is used, or is none. The text says why."""


class NodeError(FivestageError):
    """A stage returned an invalid value. The class name of any error is the ``error_type`` of its stage."""


class NoNodeError(NodeError):
    """No node is registered for the intent or the name that the decision chose, or it chose none."""


class Unanswerable(NodeError):  # noqa: N818 - describes the query, not a fault
    """Raised by a node for a query that has no answer, such as a question that contains an unknown unit.

    The stage ends as an error with the class name as its ``error_type``, as for any exception. But no other
    node is tried, and neither the node's breaker nor its health counts it as a failure. Subclasses, and the
    exceptions named in ``@app.node(..., not_failures=...)``, have the same effect.
    """


class BrokerError(FivestageError):
    """Kafka cannot be used, or a task of the bus loop failed: the process must be restarted."""


class PublishError(BrokerError):
    """Events cannot be published; their queries are not committed and will be read again."""


class FencedError(BrokerError):
    """Another process joined the group with the same ``kafka.group_instance_id``."""


class ExecutorError(FivestageError):
    """The executor cannot run queries, or too much abandoned code runs on: the process must be restarted."""


class DrainTimeoutError(FivestageError):
    """Queries were still in flight when the drain at shutdown reached its time limit."""
