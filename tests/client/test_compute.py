"""What a run asks for, a silo's owner sets and the hardware is, made into concrete values."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from client import compute
from client.compute import Hardware, automatic, for_scoring, resolved, resolved_on
from conf.combinations import refused_precisions
from conf.compose import compose
from conf.errors import SiloError
from conf.schema import MachineConf, TrainerConf

CPU = Hardware("cpu")
H100 = Hardware("cuda", bf16=True, tf32=True, name="NVIDIA H100")
T4 = Hardware("cuda", bf16=False, tf32=False, name="Tesla T4")
APPLE = Hardware("mps")
RUN = TrainerConf()
UNSET = MachineConf()


@pytest.mark.parametrize(
    ("hardware", "precision"), [(CPU, "fp32"), (H100, "bf16"), (T4, "fp16"), (APPLE, "fp32")]
)
def test_auto_is_what_the_hardware_computes_in(hardware: Hardware, precision: str) -> None:
    assert resolved_on(RUN, UNSET, hardware, {}).precision == precision


def test_auto_never_takes_what_the_run_s_algorithm_refuses() -> None:
    conf = compose(["task=digits", "strategy=scaffold", "model=mlp"])
    refused = {name: rule.why for name, rule in refused_precisions(conf).items()}
    assert set(refused) == {"fp16"}
    assert automatic(T4, refused) == "fp32" and automatic(H100, refused) == "bf16"
    assert refused_precisions(compose(["task=digits"])) == {}


def test_a_silo_s_own_precision_is_refused_where_the_algorithm_does_not_allow_it() -> None:
    with pytest.raises(SiloError, match=r"MDW-363: the silo's machine.precision=fp16 .* overflow"):
        resolved_on(RUN, MachineConf(precision="fp16"), T4, {"fp16": "its gradients overflow"})


@pytest.mark.parametrize(
    ("hardware", "precision"), [(CPU, "fp32"), (APPLE, "fp32"), (T4, "fp32"), (H100, "tf32")]
)
def test_tf32_is_called_fp32_where_there_is_none(hardware: Hardware, precision: str) -> None:
    asked = replace(RUN, precision="tf32")
    assert resolved_on(asked, UNSET, hardware, {}).precision == precision


def test_a_gpu_that_only_imitates_bf16_is_not_given_it() -> None:
    with pytest.raises(SiloError, match=r"MDW-363: trainer.precision=bf16, and Tesla T4 does not"):
        resolved_on(replace(RUN, precision="bf16"), UNSET, T4, {})


def test_the_silo_s_settings_win_over_the_run_s_each_by_itself() -> None:
    asked = replace(RUN, precision="bf16", compile="max-autotune", loader_workers=4)
    own = MachineConf(
        precision="fp16", compile="off", channels_last=True, loader_workers=0, keep_on_device=False
    )
    done = resolved_on(asked, own, T4, {})
    assert (done.precision, done.compile, done.loader_workers) == ("fp16", "off", 0)
    assert done.channels_last and not done.keep_on_device
    plain = replace(asked, deterministic="true", channels_last=False)
    assert resolved_on(asked, UNSET, CPU, {}) == plain


def test_what_is_carried_out_is_strict_but_where_it_has_to_be_graded() -> None:
    assert resolved_on(RUN, UNSET, CPU, {}).deterministic == "true"
    assert resolved_on(RUN, UNSET, H100, {}).deterministic == "auto"
    off = MachineConf(deterministic="false")
    assert resolved_on(RUN, off, CPU, {}).deterministic == "false"


def test_every_machine_key_is_a_key_of_the_trainer_with_the_same_values() -> None:
    trainer = {f.name: f for f in fields(TrainerConf)}
    for own in fields(MachineConf):
        assert own.default is None
        of_run = trainer[own.name].metadata
        assert own.metadata.get("one_of", ()) == of_run.get("one_of", ())
        assert own.metadata.get("formerly") == of_run.get("formerly")


def test_the_server_computes_as_no_silo_s_machine_is_told() -> None:
    told = replace(
        RUN,
        device="cuda",
        precision="bf16",
        compile="default",
        channels_last=True,
        deterministic="false",
        loader_workers=512,
        keep_on_device=False,
        eval_batch_size=7,
    )
    own = for_scoring(told)
    assert own.eval_batch_size == 7
    for name in ("device", *(f.name for f in fields(MachineConf))):
        assert getattr(own, name) != getattr(told, name), name


def test_a_device_is_looked_at_as_torch_describes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Hardware.of(torch.device("cpu")) == CPU
    asked: list[bool] = []

    def supported(*, including_emulation: bool) -> bool:
        asked.append(including_emulation)
        return False

    class Entered:
        def __init__(self, device: torch.device) -> None:
            assert device == torch.device("cuda", 1)

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(torch.cuda, "device", Entered)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    assert Hardware.of(torch.device("cuda", 1)) == T4
    assert asked == [False]
    done = resolved(RUN, compute.AS_THE_RUN_SAYS, torch.device("cuda", 1))
    assert done.precision == "fp16"


@pytest.mark.parametrize(
    ("precision", "last"), [("bf16", True), ("fp16", True), ("fp32", False), ("tf32", False)]
)
def test_images_lie_channels_last_where_a_gpu_trains_in_half_precision(
    precision: str, last: bool
) -> None:
    gpu = Hardware("cuda", bf16=True, tf32=True)
    asked = replace(RUN, precision=precision)
    assert resolved_on(asked, MachineConf(), gpu, {}).channels_last is last
    said = replace(asked, channels_last=not last)
    assert resolved_on(said, MachineConf(), gpu, {}).channels_last is not last
    assert resolved_on(RUN, MachineConf(), CPU, {}).channels_last is False
