"""What the chips that runs are planned for can hold, compute and move, by their makers' published numbers.

TPUs: the system architecture pages of the Google Cloud documentation, for a whole chip (JAX shows the two cores of a
v4 or v5p as one device; those of a TPU7x are two devices, and each is half a chip here). GPUs: NVIDIA's data sheets of
the SXM modules, without sparsity, with 32-bit accumulation.

Links: what a device sends at once over all its links, half of what is published for both directions. TPUs: the pages'
interconnect bandwidth of a chip (of v4: six links of 50 GB/s, arXiv 2304.01433). GPUs: NVLink, and PCIe 4.0 with 16
lanes for an L4 or an RTX 4090, which have none.
"""

from typing import NamedTuple

from gvgap_jax.runtime.messages import unknown
from gvgap_jax.runtime.units import GIB

GB, TFLOPS = 10**9, 10**12


class Chip(NamedTuple):
    """One device.

    Attributes:
      name: for people, and for ``chip_named``.
      memory_bytes: of a device, before anything reserves a part of it.
      flops_bfloat16, flops_float32: peak operations a second of matrix products. That of float32 is
        the peak in full precision: six passes of bfloat16 on a TPU, and no tensor cores on a GPU.
      bandwidth_bytes_per_s: between a device and its memory.
      links_bytes_per_s: that a device can send to others of its slice or host, all links together.
      share_of_peak: of either peak that a program is assumed to reach. 0.4 is what well-kept training reaches
        (PaLM 0.46, arXiv 2204.02311, table 3; GPT-3 0.21); an assumption, to be replaced by a measurement.
    """

    name: str
    memory_bytes: int
    flops_bfloat16: float
    flops_float32: float
    bandwidth_bytes_per_s: float
    links_bytes_per_s: float
    share_of_peak: float = 0.4


def _tpu(name: str, memory: float, peak: float, bandwidth: float, links: float) -> Chip:
    return Chip(name, int(memory * GIB), peak * TFLOPS, peak / 6 * TFLOPS, bandwidth * GB, links * GB)


def _gpu(name: str, memory: float, peak: float, float32: float, bandwidth: float, links: float) -> Chip:
    return Chip(name, int(memory * GIB), peak * TFLOPS, float32 * TFLOPS, bandwidth * GB, links * GB)


CHIPS = (
    _tpu("TPU v4", 32, 275, 1228, 300),
    _tpu("TPU v5e", 16, 197, 819, 200),
    _tpu("TPU v5p", 95, 459, 2765, 600),
    _tpu("TPU v6e", 32, 918, 1638, 400),
    _tpu("TPU7x", 96, 2307 / 2, 7380 / 2, 300),
    _gpu("A100 40GB", 40, 312, 19.5, 1555, 300),
    _gpu("A100 80GB", 80, 312, 19.5, 2039, 300),
    _gpu("H100", 80, 989, 67, 3350, 450),
    _gpu("H200", 140, 989, 67, 4800, 450),
    _gpu("L4", 24, 121, 30.3, 300, 32),
    _gpu("RTX 4090", 24, 165, 82.6, 1008, 32),
    # One core of a server with 4 GiB for each; bfloat16 is computed as float32, and others are reached through memory.
    Chip("cpu", 4 * GIB, 0.05 * TFLOPS, 0.05 * TFLOPS, 10 * GB, 10 * GB),
)

KINDS = {  # what JAX calls a device, in part: longer ones first where one is the beginning of another
    "TPU v6 lite": "TPU v6e",
    "TPU v6e": "TPU v6e",
    "TPU v5 lite": "TPU v5e",
    "TPU v5e": "TPU v5e",
    "TPU v5p": "TPU v5p",
    "TPU v5": "TPU v5p",
    "TPU7x": "TPU7x",
    "TPU v4 lite": "",
    "TPU v4": "TPU v4",
    "A100-SXM4-80GB": "A100 80GB",
    "A100 80GB": "A100 80GB",
    "A100": "A100 40GB",
    "H100": "H100",
    "H200": "H200",
    "RTX 4090": "RTX 4090",
    "NVIDIA L4": "L4",
    "cpu": "cpu",
}


def chip_named(name: str) -> Chip:
    """The chip of that name, whatever its letters' case, spaces and hyphens; a TPU's with or without that word.

    Raises:
      ValueError: there is none; names the closest.
    """
    known = {_plain(chip.name): chip for chip in CHIPS}
    if _plain(name) in known:
        return known[_plain(name)]
    raise ValueError(unknown("chip", name, [chip.name for chip in CHIPS]))


def chip_of(device_kind: str) -> Chip | None:
    """The chip that ``jax.Device.device_kind`` names, None for one that is not known."""
    name = next((name for kind, name in KINDS.items() if _is_called(device_kind, kind)), "")
    return chip_named(name) if name else None


def _is_called(device_kind: str, kind: str) -> bool:
    """Whether the words are in it, and no longer number or word: an L40S is no L4."""
    before, there, after = device_kind.lower().partition(kind.lower())
    return bool(there) and not before[-1:].isalnum() and not after[:1].isalnum()


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower().removeprefix("tpu") if letter.isalnum())


def peak(chip: Chip, dtype: str) -> float:
    """Operations a second that a program is assumed to reach with activations of that type."""
    return chip.share_of_peak * (chip.flops_bfloat16 if dtype == "bfloat16" else chip.flops_float32)
