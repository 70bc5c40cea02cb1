"""What a Flower message holds: named byte strings, each a protobuf message, a safetensors file or PEM text.

Flower writes a record of arrays without pickle; here an array is the bytes themselves, so that its codec for NumPy
arrays is not involved either. It sends them in chunks of 5 MB.
"""

from collections.abc import Mapping

from flwr.app import Array, ArrayRecord, RecordDict

from wavetune.errors import DeploymentError

_RECORD, _KIND = "wavetune", "bytes"


def pack(parts: Mapping[str, bytes]) -> RecordDict:
    """The content of a message with these parts.

    >>> unpack(pack({"order": b"1234"}))
    {'order': b'1234'}
    """
    return RecordDict({_RECORD: ArrayRecord({n: Array("uint8", (len(b),), _KIND, b) for n, b in parts.items()})})


def unpack(content: RecordDict) -> dict[str, bytes]:
    """The parts of a message's content. Raises DeploymentError if it is not one of ours."""
    record = content.get(_RECORD)
    if not isinstance(record, ArrayRecord) or any(array.stype != _KIND for array in record.values()):
        raise DeploymentError(
            "a Flower message came that is not one of wavetune's; install the same version everywhere"
        )
    return {name: array.data for name, array in record.items()}
