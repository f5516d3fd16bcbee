"""`meadow predict` and `meadow export`: a finished run's model on examples that nobody labelled, and
as files for elsewhere.
"""

from __future__ import annotations

from pathlib import Path

from azureml_jobs.cli.arguments import Arguments
from conf.compose import compose


def predict(arguments: Arguments) -> int:
    """Write a line for each row or image; raises what `server.scoring.prediction.predict` raises."""
    data = compose(list(arguments.rest)).data
    output = Path(arguments.get("output", "predictions.csv"))
    from server.scoring.prediction import predict

    count = predict(arguments.get("run"), data, output)
    print(f"wrote {output}: {count} predictions")
    return 0


def export(arguments: Arguments) -> int:
    """Write the model in a format that needs no Meadow; raises what `server.export.export` raises."""
    data = compose(list(arguments.rest)).data
    output = arguments.get("output", "")
    form = arguments.get("format")
    from server.export.export import export

    folder, count = export(arguments.get("run"), form, Path(output) if output else None, data)
    for path in sorted(folder.iterdir()):
        print(f"wrote {path}")
    print(f"read again, it gives the outputs of the run's model on {count} examples")
    return 0
