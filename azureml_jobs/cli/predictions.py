"""`meadow predict`: what a finished run's model says of examples that nobody labelled."""

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
