"""What is drawn anew of an image each time it is trained on: torchvision's transforms by name.

The list is closed: a transform that would change what an image is of, its type or its size is not
one of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from torch import Tensor

from conf.errors import ConfigError
from conf.schema_keys import nearest

Transform = Callable[[Tensor], Tensor]
ALLOWED: Final = (
    "ColorJitter",
    "ElasticTransform",
    "GaussianBlur",
    "RandomAdjustSharpness",
    "RandomAffine",
    "RandomAutocontrast",
    "RandomEqualize",
    "RandomErasing",
    "RandomHorizontalFlip",
    "RandomInvert",
    "RandomPerspective",
    "RandomPosterize",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomSolarize",
    "RandomVerticalFlip",
)


def augmentation(listed: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> Transform | None:
    """Return one transform that applies the listed ones in order, None where none is.

    `size` is that of the image, which RandomResizedCrop gives again. Raises ConfigError MDW-188 for
    a name that is not of the list, or arguments that it does not take.
    """
    if not listed:
        return None
    from torchvision.transforms import v2  # seconds to import: only where it is used

    made: Transform = v2.Compose([_made(v2, dict(one), size) for one in listed])
    return made


def _made(v2: Any, given: dict[str, Any], size: tuple[int, int]) -> Any:
    name = given.pop("name", "")
    if name not in ALLOWED:
        what = f"task.augment: {name!r} is not a transform that is allowed."
        raise ConfigError("MDW-188", what, nearest(str(name), ALLOWED))
    of = getattr(v2, name)
    if name == "RandomResizedCrop":
        given.setdefault("size", list(size))
    wrong = sorted(set(given) - set(inspect.signature(of).parameters))
    if wrong:
        takes = ", ".join(inspect.signature(of).parameters)
        what = f"task.augment: {name} has no argument {wrong[0]!r}."
        raise ConfigError("MDW-188", what, f"It takes {takes}.")
    try:
        return of(**given)
    except (TypeError, ValueError) as error:
        what = f"task.augment: {name} refuses its arguments: {error}."
        raise ConfigError("MDW-188", what, "Correct them.") from None
