"""The section ``machine`` of config.yaml."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from sphere.config.base import Rate, Settings, validated


class MachineSettings(Settings):
    """The machine that jobs run on."""

    gpu_memory: Rate = 80
    """GiB of one GPU."""
    disk: Rate = 2000
    """GiB free where results go."""
    tflops: Rate = 120
    """10^12 operations a second of a GPU in bfloat16 and float16; 120 is about 40 % of an A100's peak."""
    tflops_float32: Rate = 14
    """The same in float32 (no TF32: it would change results)."""
    tflops_float64: Rate = 8
    """The same in float64, in which edits are solved."""
    bandwidth: Rate = 1.2
    """10^12 bytes a second that a GPU reads from its memory: free generation waits for it."""
    cpu_tflops: Rate = 0.03
    """10^12 operations a second of the CPU cores of one job, for models without a GPU."""
    read: Rate = 1.0
    """10^9 bytes a second read from disk; every job reads its inputs twice, once to check them."""
    memory_margin: Annotated[float, Field(ge=1)] = 1.25
    """Memory that a job asks of a cluster, over what the plan expects."""
    time_margin: Annotated[float, Field(ge=1)] = 2
    """Run time that a job asks of a cluster, over what the plan expects."""


def load_machine(settings: Any) -> MachineSettings:
    """The settings of config.yaml's ``machine``, from a mapping."""
    return validated(MachineSettings, {} if settings is None else settings, "config.yaml: machine")
