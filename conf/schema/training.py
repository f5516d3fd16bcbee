"""What a silo does with its examples in a round: the trainer, and what is a matter of its machine."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final

from conf.fields import (
    MOST_EPOCHS,
    MOST_EXAMPLES,
    MOST_ROUNDS,
    MOST_THREADS,
    as_now,
    device,
    number,
    one_of,
    value,
)

PRECISIONS: Final = ("auto", "fp32", "tf32", "bf16", "fp16")
COMPILES: Final = ("off", "default", "reduce-overhead", "max-autotune")
DETERMINISTIC: Final = ("auto", "true", "false")
# Both were switches, and are written so in files and policies, and by servers of other releases.
_COMPILE_WAS: Final = {"true": "default", "false": "off"}
_DETERMINISTIC_WAS: Final = {"true": "true", "false": "false"}


def written_now(conf: Any) -> None:
    """Put what earlier releases wrote for the keys of a dataclass into this one's words."""
    for f in fields(conf):
        if "formerly" in f.metadata:
            setattr(conf, f.name, as_now(getattr(conf, f.name), f.metadata))


@dataclass
class TrainerConf:
    """The local training of one round."""

    epochs: int = number(
        1,
        at_least=1,
        at_most=MOST_EPOCHS,
        help="epochs that a silo trains in a round",
        also=("local_epochs",),
    )
    batch_size: int = number(
        32,
        at_least=1,
        at_most=MOST_EXAMPLES,
        help="examples in a batch of training",
        also=("train_batch_size", "batch"),
    )
    eval_batch_size: int = number(
        512, at_least=1, at_most=MOST_EXAMPLES, help="examples in a batch of evaluation"
    )
    optimizer: str = one_of("sgd", "adam", "adamw", help="the optimizer at a silo", also=("optim",))
    lr: float = number(
        0.05, above=0, help="learning rate at a silo", also=("learning_rate", "eta", "client_lr")
    )
    momentum: float = number(0.9, at_least=0, at_most=1, help="momentum (sgd)")
    weight_decay: float = number(
        0.0, at_least=0, help="weight decay", also=("decay", "l2", "weight_penalty")
    )
    schedule: str = one_of(
        "constant",
        "cosine",
        "step",
        help="learning rate over the whole run, continued from round to round",
        also=("lr_scheduler", "scheduler"),
    )
    schedule_gamma: float = number(
        0.5, above=0, at_most=1, help="factor after each step (step)", also=("gamma",)
    )
    schedule_steps: int = number(
        3,
        at_least=1,
        at_most=MOST_ROUNDS,
        help="equal parts of the run, with a step between two (step)",
    )
    clip_norm: float | None = number(
        None,
        above=0,
        help="largest norm of a gradient; null = not clipped",
        also=("max_grad_norm", "grad_clip", "gradient_clip_val"),
    )
    accumulate: int = number(
        1,
        at_least=1,
        at_most=MOST_EXAMPLES,
        help="batches for one optimizer step",
        also=("gradient_accumulation_steps", "accumulate_grad_batches"),
    )
    precision: str = one_of(
        *PRECISIONS,
        help="number format of the training; auto = fp32 on a CPU, on a GPU bf16 where it computes "
        "in it, else fp16; tf32 = fp32 with a GPU's shorter products",
        also=("dtype", "amp"),
    )
    eval_precision: str = one_of(
        "auto",
        "fp32",
        "tf32",
        "train",
        help="number format of evaluations; auto = fp32, on a GPU that trains in shorter ones tf32; "
        "train = that of the training",
    )
    channels_last: bool | None = value(
        None,
        help="keep images in memory as channels_last; null = on a GPU that trains in bf16 or fp16",
    )
    compile: str = one_of(
        *COMPILES,
        formerly=_COMPILE_WAS,
        help="mode of torch.compile; off = the model is not compiled",
        also=("torch_compile",),
    )
    deterministic: str = one_of(
        *DETERMINISTIC,
        formerly=_DETERMINISTIC_WAS,
        help="only algorithms of torch that give the same bits; auto = true on a CPU, on a GPU where "
        "there are such; false = the fastest",
    )
    device: str = device("auto", help="where a silo trains; auto = cuda, then mps, then cpu")
    threads: int = number(
        1,
        at_least=1,
        at_most=MOST_THREADS,
        help="threads of torch; another number gives other bits",
        also=("num_threads",),
    )
    loader_workers: int = number(
        0,
        at_least=0,
        at_most=MOST_THREADS,
        help="processes that load data which is not kept in memory; 0 = none",
        also=("num_workers", "dataloader_num_workers"),
    )
    keep_on_device: bool = value(
        True, help="keep the data on the GPU where it fits in a quarter of its free memory"
    )

    def __post_init__(self) -> None:
        written_now(self)


@dataclass
class MachineConf:
    """What of a run's trainer is a matter of the silo's machine, as its owner sets it; it wins over
    the run's. null = as the run says.
    """

    precision: str | None = one_of(
        None, *PRECISIONS, help="number format of the training there; null = as the run says"
    )
    compile: str | None = one_of(
        None,
        *COMPILES,
        formerly=_COMPILE_WAS,
        help="mode of torch.compile there; null = as the run says",
    )
    channels_last: bool | None = value(
        None, help="keep images in memory as channels_last; null = as the run says"
    )
    deterministic: str | None = one_of(
        None,
        *DETERMINISTIC,
        formerly=_DETERMINISTIC_WAS,
        help="how strictly the same bits there; null = as the run says",
    )
    loader_workers: int | None = number(
        None,
        at_least=0,
        at_most=MOST_THREADS,
        help="processes that load data which is not kept in memory; null = as the run says",
    )
    keep_on_device: bool | None = value(
        None, help="keep the data on the GPU where it fits; null = as the run says"
    )

    def __post_init__(self) -> None:
        written_now(self)
