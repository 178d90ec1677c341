"""The errors of fivestage.

::

    FivestageError
    ├── ConfigurationError      settings, topics, rights: exit code 2
    │   └── AccessError         Kafka was reached, and refuses this client's credentials or certificate
    ├── InvalidAppError         the Pipeline cannot run as declared
    ├── ResourceError           a resource could not be opened in time, or is used where it is not open
    ├── NodeError               raised for a stage, becomes ``error_type`` of its StageResult
    │   ├── NoNodeError         no registered node takes the intent, or the decision named an unknown one
    │   └── Unanswerable        raised by a node: this query has no answer, and the node is well
    ├── BrokerError             the bus cannot go on; the process ends, nothing uncommitted is lost
    │   ├── PublishError        an event was not acknowledged
    │   └── FencedError         another process has joined the group with this one's instance id
    ├── ExecutorError           user code has left the executor beyond repair; the process ends
    └── DrainTimeoutError       shutdown took longer than it may
"""


class FivestageError(Exception):
    """Base of all errors raised by fivestage."""


class ConfigurationError(FivestageError):
    """Something outside the program must be put right first. The text says what and how."""


class AccessError(ConfigurationError):
    """Kafka refuses this client, or is not who it should be. The text says why."""


class InvalidAppError(FivestageError):
    """A Pipeline was declared in a way that cannot run."""


class ResourceError(FivestageError):
    """A resource could not be opened, or is used where it is not open. The text says which and why."""


class NodeError(FivestageError):
    """A stage cannot be carried out."""


class NoNodeError(NodeError):
    """There is no node for what the decision stage asked for."""


class Unanswerable(NodeError):  # noqa: N818 - what a node says of a query, not a fault
    """A node raises it for a query that has no answer, such as a question with an unknown unit in it.

    The stage ends as an error with the class name as its ``error_type``, as for any exception. But no other
    node is asked, and it does not count as a failure of the node, for its breaker and its health. A subclass
    does the same; so do the exceptions named in ``@app.node(..., not_failures=...)``.
    """


class BrokerError(FivestageError):
    """The connection to Kafka is beyond repair."""


class PublishError(BrokerError):
    """An event could not be published; its query stays unfinished and will be read again."""


class FencedError(BrokerError):
    """Another process has joined the group with the same ``kafka.group_instance_id``."""


class ExecutorError(FivestageError):
    """The executor cannot run user code any more."""


class DrainTimeoutError(FivestageError):
    """Work in flight did not end within the time that shutdown allows."""
