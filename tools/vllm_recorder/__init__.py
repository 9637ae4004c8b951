# ruff: noqa: D102 - the methods are vLLM's and documented there
"""What vLLM's engine core needs of the world around it, in virtual time: for tools/record_vllm.py.

    world     virtual time, token numbers, what the model makes, transfers under way: no vLLM in it
    machine   the executor and the KV connector that stand in for the real ones, and the row of each batch
    core      the engine core of a scenario, its requests, what its settings became

Importing this package makes vLLM believe in eight H100, which must happen before anything of vLLM is imported.
"""

from __future__ import annotations

import os
import sys
import types

os.environ |= {
    "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_LOGGING_LEVEL": "CRITICAL",
    "VLLM_NO_USAGE_STATS": "1",
}
for compiled in ("vllm._C", "vllm._C_stable_libtorch"):  # kernels for a device that is not here
    sys.modules[compiled] = types.ModuleType(compiled)

import vllm.platforms  # noqa: E402 - the environment must be set
from vllm.platforms.cuda import CudaPlatformBase  # noqa: E402
from vllm.platforms.interface import DeviceCapability  # noqa: E402


class H100(CudaPlatformBase):
    """What the driver says of a machine with eight H100 of 80 GB."""

    @classmethod
    def get_device_capability(cls, device_id: int = 0) -> DeviceCapability:  # noqa: ARG003 - vLLM's signature
        return DeviceCapability(9, 0)

    @classmethod
    def get_device_name(cls, device_id: int = 0) -> str:  # noqa: ARG003
        return "NVIDIA H100 80GB HBM3"

    @classmethod
    def get_device_total_memory(cls, device_id: int = 0) -> int:  # noqa: ARG003
        return 85_029_158_912

    @classmethod
    def device_count(cls) -> int:
        return 8


vllm.platforms._current_platform = H100()  # noqa: SLF001 - before anything asks for it

import vllm.config.vllm as configuration  # noqa: E402 - it asks for the platform

configuration.HAS_TRITON = True  # the kernels' compiler, which decides between model runners
