# SPDX-License-Identifier: Apache-2.0
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GapReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GAP_REASON_UNSPECIFIED: _ClassVar[GapReason]
    GAP_REASON_RETENTION: _ClassVar[GapReason]
    GAP_REASON_LOG_LOST: _ClassVar[GapReason]

class AppendOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    APPEND_OUTCOME_UNSPECIFIED: _ClassVar[AppendOutcome]
    APPEND_OUTCOME_STORED: _ClassVar[AppendOutcome]
    APPEND_OUTCOME_DUPLICATE: _ClassVar[AppendOutcome]
    APPEND_OUTCOME_CONFLICT: _ClassVar[AppendOutcome]
    APPEND_OUTCOME_INVALID: _ClassVar[AppendOutcome]
    APPEND_OUTCOME_NOT_STORED: _ClassVar[AppendOutcome]
GAP_REASON_UNSPECIFIED: GapReason
GAP_REASON_RETENTION: GapReason
GAP_REASON_LOG_LOST: GapReason
APPEND_OUTCOME_UNSPECIFIED: AppendOutcome
APPEND_OUTCOME_STORED: AppendOutcome
APPEND_OUTCOME_DUPLICATE: AppendOutcome
APPEND_OUTCOME_CONFLICT: AppendOutcome
APPEND_OUTCOME_INVALID: AppendOutcome
APPEND_OUTCOME_NOT_STORED: AppendOutcome

class Position(_message.Message):
    __slots__ = ("offset", "head")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    offset: int
    head: bytes
    def __init__(self, offset: _Optional[int] = ..., head: _Optional[bytes] = ...) -> None: ...

class Fact(_message.Message):
    __slots__ = ("offset", "prev", "subject", "message", "digest")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    PREV_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    offset: int
    prev: int
    subject: str
    message: bytes
    digest: bytes
    def __init__(self, offset: _Optional[int] = ..., prev: _Optional[int] = ..., subject: _Optional[str] = ..., message: _Optional[bytes] = ..., digest: _Optional[bytes] = ...) -> None: ...

class Gap(_message.Message):
    __slots__ = ("first", "last", "reason")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    first: int
    last: int
    reason: GapReason
    def __init__(self, first: _Optional[int] = ..., last: _Optional[int] = ..., reason: _Optional[_Union[GapReason, str]] = ...) -> None: ...

class Page(_message.Message):
    __slots__ = ("origin", "category", "epoch", "after", "facts", "gaps", "through", "pending")
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    GAPS_FIELD_NUMBER: _ClassVar[int]
    THROUGH_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    origin: str
    category: str
    epoch: bytes
    after: Position
    facts: _containers.RepeatedCompositeFieldContainer[Fact]
    gaps: _containers.RepeatedCompositeFieldContainer[Gap]
    through: Position
    pending: int
    def __init__(self, origin: _Optional[str] = ..., category: _Optional[str] = ..., epoch: _Optional[bytes] = ..., after: _Optional[_Union[Position, _Mapping]] = ..., facts: _Optional[_Iterable[_Union[Fact, _Mapping]]] = ..., gaps: _Optional[_Iterable[_Union[Gap, _Mapping]]] = ..., through: _Optional[_Union[Position, _Mapping]] = ..., pending: _Optional[int] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("origin", "receiver", "category", "epoch", "through", "committed_at_unix_ms", "signature")
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    RECEIVER_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    THROUGH_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    origin: str
    receiver: str
    category: str
    epoch: bytes
    through: Position
    committed_at_unix_ms: int
    signature: Signature
    def __init__(self, origin: _Optional[str] = ..., receiver: _Optional[str] = ..., category: _Optional[str] = ..., epoch: _Optional[bytes] = ..., through: _Optional[_Union[Position, _Mapping]] = ..., committed_at_unix_ms: _Optional[int] = ..., signature: _Optional[_Union[Signature, _Mapping]] = ...) -> None: ...

class Signature(_message.Message):
    __slots__ = ("value", "certificate")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    value: bytes
    certificate: bytes
    def __init__(self, value: _Optional[bytes] = ..., certificate: _Optional[bytes] = ...) -> None: ...

class Envelope(_message.Message):
    __slots__ = ("message_id", "from_zone", "to_zone", "produced_at_unix_ms", "correlation_id", "causation_id", "labels", "object_schema", "object_media_type")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    FROM_ZONE_FIELD_NUMBER: _ClassVar[int]
    TO_ZONE_FIELD_NUMBER: _ClassVar[int]
    PRODUCED_AT_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    CAUSATION_ID_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    OBJECT_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    OBJECT_MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    message_id: str
    from_zone: str
    to_zone: str
    produced_at_unix_ms: int
    correlation_id: str
    causation_id: str
    labels: _containers.ScalarMap[str, str]
    object_schema: str
    object_media_type: str
    def __init__(self, message_id: _Optional[str] = ..., from_zone: _Optional[str] = ..., to_zone: _Optional[str] = ..., produced_at_unix_ms: _Optional[int] = ..., correlation_id: _Optional[str] = ..., causation_id: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., object_schema: _Optional[str] = ..., object_media_type: _Optional[str] = ...) -> None: ...

class FactBody(_message.Message):
    __slots__ = ("subject", "predicate", "object_json")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    PREDICATE_FIELD_NUMBER: _ClassVar[int]
    OBJECT_JSON_FIELD_NUMBER: _ClassVar[int]
    subject: str
    predicate: str
    object_json: _struct_pb2.Struct
    def __init__(self, subject: _Optional[str] = ..., predicate: _Optional[str] = ..., object_json: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class ProducerFact(_message.Message):
    __slots__ = ("category", "kind", "envelope", "fact")
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    FACT_FIELD_NUMBER: _ClassVar[int]
    category: str
    kind: str
    envelope: Envelope
    fact: FactBody
    def __init__(self, category: _Optional[str] = ..., kind: _Optional[str] = ..., envelope: _Optional[_Union[Envelope, _Mapping]] = ..., fact: _Optional[_Union[FactBody, _Mapping]] = ...) -> None: ...

class AppendFactRequest(_message.Message):
    __slots__ = ("facts", "page", "countersigned", "countersignature")
    FACTS_FIELD_NUMBER: _ClassVar[int]
    PAGE_FIELD_NUMBER: _ClassVar[int]
    COUNTERSIGNED_FIELD_NUMBER: _ClassVar[int]
    COUNTERSIGNATURE_FIELD_NUMBER: _ClassVar[int]
    facts: _containers.RepeatedCompositeFieldContainer[ProducerFact]
    page: Page
    countersigned: Receipt
    countersignature: Signature
    def __init__(self, facts: _Optional[_Iterable[_Union[ProducerFact, _Mapping]]] = ..., page: _Optional[_Union[Page, _Mapping]] = ..., countersigned: _Optional[_Union[Receipt, _Mapping]] = ..., countersignature: _Optional[_Union[Signature, _Mapping]] = ...) -> None: ...

class AppendResult(_message.Message):
    __slots__ = ("outcome", "offset", "reason", "detail")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    outcome: AppendOutcome
    offset: int
    reason: str
    detail: str
    def __init__(self, outcome: _Optional[_Union[AppendOutcome, str]] = ..., offset: _Optional[int] = ..., reason: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class AppendFactResponse(_message.Message):
    __slots__ = ("results", "frontier", "epoch", "credit_facts", "retry_after_ms", "receipt")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    FRONTIER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FACTS_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[AppendResult]
    frontier: Position
    epoch: bytes
    credit_facts: int
    retry_after_ms: int
    receipt: Receipt
    def __init__(self, results: _Optional[_Iterable[_Union[AppendResult, _Mapping]]] = ..., frontier: _Optional[_Union[Position, _Mapping]] = ..., epoch: _Optional[bytes] = ..., credit_facts: _Optional[int] = ..., retry_after_ms: _Optional[int] = ..., receipt: _Optional[_Union[Receipt, _Mapping]] = ...) -> None: ...

class FetchFactsRequest(_message.Message):
    __slots__ = ("consumer", "category", "epoch", "after", "max_facts", "max_bytes", "wait_ms")
    CONSUMER_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    MAX_FACTS_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    consumer: str
    category: str
    epoch: bytes
    after: Position
    max_facts: int
    max_bytes: int
    wait_ms: int
    def __init__(self, consumer: _Optional[str] = ..., category: _Optional[str] = ..., epoch: _Optional[bytes] = ..., after: _Optional[_Union[Position, _Mapping]] = ..., max_facts: _Optional[int] = ..., max_bytes: _Optional[int] = ..., wait_ms: _Optional[int] = ...) -> None: ...

class FetchFactsResponse(_message.Message):
    __slots__ = ("page",)
    PAGE_FIELD_NUMBER: _ClassVar[int]
    page: Page
    def __init__(self, page: _Optional[_Union[Page, _Mapping]] = ...) -> None: ...

class ConfirmReceiptRequest(_message.Message):
    __slots__ = ("consumer", "receipt")
    CONSUMER_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    consumer: str
    receipt: Receipt
    def __init__(self, consumer: _Optional[str] = ..., receipt: _Optional[_Union[Receipt, _Mapping]] = ...) -> None: ...

class ConfirmReceiptResponse(_message.Message):
    __slots__ = ("countersignature",)
    COUNTERSIGNATURE_FIELD_NUMBER: _ClassVar[int]
    countersignature: Signature
    def __init__(self, countersignature: _Optional[_Union[Signature, _Mapping]] = ...) -> None: ...

class ErrorInfo(_message.Message):
    __slots__ = ("reason", "detail", "hint", "frontier", "epoch")
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    FRONTIER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    reason: str
    detail: str
    hint: str
    frontier: Position
    epoch: bytes
    def __init__(self, reason: _Optional[str] = ..., detail: _Optional[str] = ..., hint: _Optional[str] = ..., frontier: _Optional[_Union[Position, _Mapping]] = ..., epoch: _Optional[bytes] = ...) -> None: ...
