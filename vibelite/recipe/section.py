"""What every part of a recipe is made of: strict scalars and a frozen section."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# Strict: neither `true` nor a quoted "1" passes for a number.
Fraction = Annotated[float, Field(ge=0, le=1, strict=True)]
NonNegativeFloat = Annotated[float, Field(ge=0, strict=True)]
PositiveFloat = Annotated[float, Field(gt=0, strict=True)]
# No more than every library counts exactly to.
MOST = 2**53
NonNegativeInt = Annotated[int, Field(ge=0, le=MOST, strict=True)]
PositiveInt = Annotated[int, Field(gt=0, le=MOST, strict=True)]
# Names become directories and rows of the report.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, values never change after validation."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )
