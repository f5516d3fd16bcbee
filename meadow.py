"""What people use of Meadow from Python; each name is imported when it is first used.

    import meadow

    run = meadow.simulate(["task.target=wine.py:Wine", "run.rounds=3"])
    model = meadow.load_model(run.folder)

    class Wine(meadow.Classification): ...

Everything else is Meadow's inside, and may change between releases.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from client.tasks.base import Contract as Contract
    from client.tasks.base import Data as Data
    from client.tasks.base import SumSpec as SumSpec
    from client.tasks.base import Task as Task
    from client.tasks.base import root_of as root_of
    from client.tasks.base import splits_of as splits_of
    from client.tasks.kinds.classification import Classification as Classification
    from client.tasks.kinds.multi_label import MultiLabel as MultiLabel
    from client.tasks.kinds.regression import Regression as Regression
    from client.tasks.kinds.segmentation import Segmentation as Segmentation
    from client.tasks.kinds.token_classification import TokenClassification as TokenClassification
    from conf.errors import DataError as DataError
    from conf.errors import MeadowError as MeadowError
    from conf.schema import Silo as Silo
    from server.report.run_comparison import compare as compare
    from server.scoring.evaluation import load_model as load_model
    from server.simulation import simulate as simulate
    from strategies.algorithm import Algorithm as Algorithm
    from strategies.fedavg import FedAvg as FedAvg
    from strategies.silo_half import SiloHalf as SiloHalf

_WHERE: Final = {
    "simulate": "server.simulation",
    "load_model": "server.scoring.evaluation",
    "compare": "server.report.run_comparison",
    "Task": "client.tasks.base",
    "Data": "client.tasks.base",
    "Contract": "client.tasks.base",
    "SumSpec": "client.tasks.base",
    "root_of": "client.tasks.base",
    "splits_of": "client.tasks.base",
    "Classification": "client.tasks.kinds.classification",
    "MultiLabel": "client.tasks.kinds.multi_label",
    "Regression": "client.tasks.kinds.regression",
    "Segmentation": "client.tasks.kinds.segmentation",
    "TokenClassification": "client.tasks.kinds.token_classification",
    "Algorithm": "strategies.algorithm",
    "FedAvg": "strategies.fedavg",
    "SiloHalf": "strategies.silo_half",
    "Silo": "conf.schema",
    "MeadowError": "conf.errors",
    "DataError": "conf.errors",
}
"""Each public name, and the module that has it."""

__all__ = sorted(_WHERE)  # read off the table


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'meadow' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})


def _look_at_the_names() -> None:
    """Raise ImportError MDW-179 where another's module has the name of one of Meadow's packages."""
    # By its path: `azureml_jobs` itself may be another's.
    file = Path(__file__).resolve().parent / "azureml_jobs" / "shadowed.py"
    spec = importlib.util.spec_from_file_location("_meadow_shadowed", file)
    if spec is None or spec.loader is None or not file.is_file():
        raise ImportError(f"MDW-179: Meadow is not whole: there is no {file}. Install it again.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.check()


_look_at_the_names()
