"""Which linear maps carry LoRA, as a setting: names of maps, or `all-linear`."""

from typing import Annotated, Any, cast

from annotated_types import MinLen


class _OneStandsForAList:
    """Tells pydantic so; it is imported where it reads this alone."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core.core_schema import no_info_before_validator_function

        return no_info_before_validator_function(_as_tuple, handler(source))


def _as_tuple(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(cast("list[Any]", value))
    return (value,) if isinstance(value, str) else value


LoraTargets = Annotated[tuple[str, ...], MinLen(1), _OneStandsForAList()]
"""Ends of dotted paths, as in PEFT; one name stands for a list of it, and `all-linear` for all maps of the blocks."""
