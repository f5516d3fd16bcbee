"""The rows of the table of verbs that a data scientist needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from azureml_jobs.cli.arguments import Argument, Verb
from azureml_jobs.cli.statuses import ENDS, TIME_IS_OVER
from azureml_jobs.cli.verb_parts import (
    AS,
    EVERY_KEY,
    FINISHED_RUN,
    MODULE,
    NEW,
    ON,
    OUTSIDE,
    PLACES,
    RUN,
    SCIENTIST,
    WHICH,
)

SCIENTISTS: Final = (
    Verb(
        "simulate",
        SCIENTIST,
        "train one model over several silos on this machine",
        "programs:simulate",
        (Argument("--no-progress", "plain lines instead of the live display"),),
        overrides=EVERY_KEY,
        hydra=True,
        own_help=True,
    ),
    Verb(
        "submit",
        SCIENTIST,
        "give a run to a federation's orchestrator",
        "runs:submit",
        (ON, AS),
        overrides=EVERY_KEY,
        hydra=True,
        about="Runs are done one after another. Running silos keep their own settings (data, device, threads): a run\n"
        "that asks for others is refused.",
        examples=(
            (
                "meadow submit task=digits run.rounds=20 run.name=second",
                "then: meadow wait run=second",
            ),
        ),
    ),
    Verb(
        "status",
        SCIENTIST,
        "show a federation's jobs and runs",
        "watch:status",
        (ON, AS),
        overrides=WHICH,
        about="What is not yours to see costs its own row, and no error.",
    ),
    Verb(
        "wait",
        SCIENTIST,
        "wait for the end of a run",
        "runs:wait",
        (RUN, Argument("timeout", "stop waiting after so many seconds", "SECONDS"), ON, AS),
        overrides=WHICH,
        statuses=(*ENDS, TIME_IS_OVER),
    ),
    Verb(
        "runs",
        SCIENTIST,
        "list the runs of this machine, the last one first",
        "finished_runs:runs",
        (Argument("--json", "as JSON, with every digit"),),
        overrides=("run.output",),
        about="A run in each line: what it trained, how it ended, its headline metric at the end. One that was killed\n"
        "is still called running; the line says for how long it has written nothing.",
    ),
    Verb(
        "compare",
        SCIENTIST,
        "put runs side by side: what they reached, cost and were set to",
        "compared_runs:compare",
        (
            Argument(
                "RUN",
                "a folder's name in outputs/, the path of one, or a folder of runs such as a sweep's",
                required=True,
                many=True,
            ),
            Argument("page", "where the page goes (outputs/compare-....html)", "FILE"),
            Argument("--json", "print JSON, with every digit"),
        ),
        overrides=("run.output",),
        about="Prints a table and writes a page with the runs' curves. Runs of different tasks, or whose silos\n"
        "test on other examples, are put side by side with a note that says so.",
        examples=(
            ("meadow compare first second", ""),
            ("meadow compare outputs/sweep-2026-01-02_03-04-05", "all runs of a sweep"),
        ),
    ),
    Verb(
        "evaluate",
        SCIENTIST,
        "score a finished run's model, silo by silo",
        "finished_runs:evaluate",
        (FINISHED_RUN,),
        overrides=PLACES,
        about="Code from outside the tree is found where the run says, or where task.target= does.",
    ),
    Verb(
        "predict",
        SCIENTIST,
        "write what a finished run's model says of rows or images without labels",
        "predictions:predict",
        (FINISHED_RUN, Argument("output", "where it goes (predictions.csv)", "FILE")),
        overrides=("data.",),
        about="The model file has what its columns or pixels are scaled by; the files have to keep the contract of\n"
        "the run, but for the label, which need not be there. An output that is there is written over.",
        examples=(
            ("meadow predict run=first data.root=new-patients.csv output=predictions.csv", ""),
        ),
    ),
    Verb(
        "export",
        SCIENTIST,
        "write a finished run's model as a file that needs no Meadow",
        "predictions:export",
        (
            FINISHED_RUN,
            Argument(
                "format",
                "onnx; torch_export; safetensors: weights and a small loader",
                "FORMAT",
                required=True,
                choices=("onnx", "torch_export", "safetensors"),
            ),
            Argument("output", "the folder it goes to (RUN/export/FORMAT)", "FOLDER"),
        ),
        overrides=("data.",),
        about="It takes rows or pixels as they were read, and has what they are scaled by, the contract, the names of\n"
        "classes and the operating point. What was written is read again, and its outputs compared with the run's\n"
        "model, on data.root= too where that is given. Nothing in it is a pickle.",
        examples=(("meadow export run=first format=onnx", ""),),
    ),
    Verb(
        "report",
        SCIENTIST,
        "write a run's report anew, or verify its ledger",
        "finished_runs:report",
        (
            FINISHED_RUN,
            Argument("--verify", "do what meadow verify does instead"),
            *(replace(argument, needs="--verify") for argument in OUTSIDE),
        ),
        statuses=(("6", "it does not hold (with --verify)"),),
    ),
    Verb(
        "new task",
        SCIENTIST,
        "write the file of a task of your own, its test and example data",
        "new:new_task",
        (MODULE,),
        about=NEW,
        examples=(("meadow new task wine", "wine.py, test_wine.py, wine.csv"),),
    ),
    Verb(
        "new model",
        SCIENTIST,
        "write the file of a model of your own, and its test",
        "new:new_model",
        (MODULE,),
        about=NEW,
        examples=(("meadow new model wide", "wide.py, test_wide.py"),),
    ),
    Verb(
        "new strategy",
        SCIENTIST,
        "write the file of a strategy of your own, both halves, and its test",
        "new:new_strategy",
        (MODULE,),
        about=NEW,
        examples=(("meadow new strategy gentle", "gentle.py, test_gentle.py"),),
    ),
    Verb(
        "check",
        SCIENTIST,
        "look at all that would fail in a launch or a run, before it",
        "watch:check",
        (ON, AS),
        overrides=EVERY_KEY,
        about="One line for each thing that is looked at, and below it what to do. You are shown your role's part.\n"
        "Where only what is trained is named (task, data, model, trainer, strategy), a dry round of it is done here:\n"
        "a small batch through the task, the model's state there and back, one aggregation.",
        examples=(
            ("meadow check federation.file=hospitals.yaml", "a federation, before it is launched"),
            ("meadow check task.target=wine.py:Wine data.root=wine.csv", "a task of your own"),
        ),
        statuses=(("9", "a launch would fail"), ("3", "a run would fail at its first batch")),
    ),
)
"""In the order of the help."""
