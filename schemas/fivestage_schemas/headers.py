"""Names of the Kafka headers, after CloudEvents 1.0 (Kafka binding, binary mode) and W3C Trace Context."""

from typing import Final

CONTENT_TYPE: Final = "content-type"
JSON_CONTENT_TYPE: Final = "application/json"
STRUCTURED_CONTENT_TYPE: Final = "application/cloudevents"
"""A content type that begins so marks a CloudEvent in structured mode."""

CE_SPECVERSION: Final = "ce_specversion"
CE_ID: Final = "ce_id"
CE_SOURCE: Final = "ce_source"
CE_TYPE: Final = "ce_type"
CE_SUBJECT: Final = "ce_subject"
CE_TIME: Final = "ce_time"
CE_CORRELATION_ID: Final = "ce_correlationid"
CE_CAUSATION_ID: Final = "ce_causationid"
CE_EXPIRY_TIME: Final = "ce_expirytime"

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
LANE: Final = "lane"
STATUS: Final = "status"

STAGE_RESULT_TYPE: Final = "fivestage.stage_result.v1"
RESULT_TYPE: Final = "fivestage.result.v1"
TIMEOUT_TYPE: Final = "fivestage.timeout.v1"

DLQ_REASON: Final = "dlq.reason"
DLQ_DETAIL: Final = "dlq.detail"
DLQ_TOPIC: Final = "dlq.topic"
DLQ_PARTITION: Final = "dlq.partition"
DLQ_OFFSET: Final = "dlq.offset"
DLQ_TIMESTAMP: Final = "dlq.timestamp"
DLQ_TRUNCATED: Final = "dlq.truncated"
"""Set where the record did not fit into the dead-letter topic: key and value are left out."""
