"""Networks as a study file names them."""

from typing import Annotated

from pydantic import AfterValidator, ValidationInfo
from pydantic_core import PydanticCustomError

from rspipe.errors import StudyError
from rspipe.networks.architectures import find_architecture

NO_CODE = {"allow_code": False}


def _known_architecture(name: str, info: ValidationInfo) -> str:
    if info.context == NO_CODE and ":" in name:
        # Before anything is imported. Who makes a spec in Python has chosen the module already.
        raise PydanticCustomError(
            "code_not_allowed",
            "this runs code of module '{module}'; pass --allow-code if you trust that module and this study file",
            {"module": name.partition(":")[0]},
        )
    try:
        find_architecture(name)
    except StudyError as error:
        raise PydanticCustomError("unknown_architecture", "{reason}", {"reason": str(error)}) from error
    return name


Architecture = Annotated[str, AfterValidator(_known_architecture)]
