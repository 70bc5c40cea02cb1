"""How many entries a protobuf message has, counted on its bytes: read, one of two bytes takes fifty and more."""

from typing import Any

from google.protobuf.descriptor import FieldDescriptor

_PACKED_BYTES = 64  # of packed numbers count as an entry, as they take little more than they are


def count_entries(content: bytes, kind: Any, most: int) -> int:
    """Fields of a message with this descriptor and of all within it; not counted on from `most`.

    Raises ValueError where it is no message.

    >>> from wavetune.data_plane.messages_pb2 import Frame, Loss
    >>> count_entries(Frame(sequence=1, losses=[Loss(), Loss(nll=2.0)]).SerializeToString(), Frame.DESCRIPTOR, 100)
    4
    """
    within, found = [(memoryview(content), kind)], 0
    while within:
        data, kind = within.pop()
        at, end = 0, len(data)
        while at < end and found <= most:
            found += 1
            tag, at = _varint(data, at)
            wire, field = tag & 7, kind.fields_by_number.get(tag >> 3)
            if wire == 0:
                _, at = _varint(data, at)
            elif wire == 2:
                size, at = _varint(data, at)
                if field is not None and field.message_type is not None:
                    within.append((data[at : at + size], field.message_type))
                elif field is not None and field.type not in (FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_STRING):
                    found += size // _PACKED_BYTES
                at += size
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
            else:
                raise ValueError(f"a field of wire type {wire}")
    return found


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the least first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise ValueError("a number that does not end")
