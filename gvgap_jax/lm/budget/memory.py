"""What a run needs of a device, before anything is loaded, and the nearest setting that fits where it does not.

Every program has a few moments at which it can be worst; the estimate is the worst of them. ``work`` says what
each term is made of, and ``experiments/benchmarks/memory.py`` compares their sum with what XLA reports.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from gvgap_jax.lm.budget.work import (
    Work,
    cache_bytes,
    converted_bytes,
    data_bytes,
    forward_bytes,
    gathered_bytes,
    head_bytes,
    logits_bytes,
    next_bytes,
    parameter_bytes,
    passed_bytes,
    saved_bytes,
    work_bytes,
)
from gvgap_jax.runtime.chips import Chip
from gvgap_jax.runtime.devices import USABLE
from gvgap_jax.runtime.units import readable

MOST = 1024  # devices that a search considers


class Memory(NamedTuple):
    """Bytes on each device: what is always there, and what else is at the worst moment.

    Attributes:
      parameters, moments, best, data: always there. Moments are Adam's two, best are the selected parameters.
      gradients: of this part of a batch, and the sum over parts.
      activations, attention: that blocks have saved for their backward pass, without and with scores [n, heads, T, T].
      logits: with their gradient.
      cache: keys and values of sampling.
      temporary: of the block at work, of the parameters that a layout gathers, or of the state that is not yet taken.
      moment: when it is worst.
    """

    parameters: float
    moments: float = 0
    best: float = 0
    data: float = 0
    gradients: float = 0
    activations: float = 0
    attention: float = 0
    logits: float = 0
    cache: float = 0
    temporary: float = 0
    moment: str = ""

    @property
    def total(self) -> float:
        """Bytes on each device."""
        return sum(self[:-1])


def rows(memory: Memory) -> list[tuple[str, float]]:
    """Labels and bytes of what there is any of, and the total, for a table."""
    parts = [(name, float(value)) for name, value in memory._asdict().items() if name != "moment"]
    return [(name, value) for name, value in parts if value] + [(f"total, worst {memory.moment}", memory.total)]


def training(work: Work) -> Memory:
    """Bytes of a gradient step: a state of parameters and two moments, and the worst of three moments.

    At the read-out logits and their gradient stand beside all that was saved; in the backward pass of a block what it
    computes does, and the gradients; in the update the next parameters do, until it is known whether they are finite.
    """
    state = parameter_bytes(work)
    held = Memory(state, 2 * state, state if work.keeps_best else 0, data_bytes(work))
    summed = state if work.accumulate > 1 else 0
    activations, attention = saved_bytes(work)
    saved = held._replace(activations=activations, attention=attention)
    block, head = gathered_bytes(work)
    moments = (
        saved._replace(
            gradients=head_bytes(work) + summed,
            logits=sum(logits_bytes(work)),
            temporary=converted_bytes(work) + head,
            moment="read-out",
        ),
        saved._replace(
            gradients=passed_bytes(work) + summed,
            temporary=work_bytes(work) + converted_bytes(work) + block,
            moment="backward",
        ),
        held._replace(gradients=state, temporary=next_bytes(work), moment="update"),
    )
    return max(moments, key=lambda memory: memory.total)


def scoring(work: Work) -> Memory:
    """Bytes of a forward pass alone: reference margins (``dpo``), rewards, or log-probabilities (``sft``)."""
    held, (block, head) = Memory(parameter_bytes(work), data=data_bytes(work)), gathered_bytes(work)
    moments = (
        held._replace(logits=logits_bytes(work)[0], temporary=converted_bytes(work) + head, moment="read-out"),
        held._replace(
            temporary=forward_bytes(work, work.length) + converted_bytes(work) + block + head, moment="forward"
        ),
    )
    return max(moments, key=lambda memory: memory.total)


def generation(work: Work) -> Memory:
    """Bytes of sampling one response to each of ``rows`` prompts.

    The prompt's pass is worst, or the moment after it: a TPU lays the cache out anew, first its keys, then its values.
    """
    work = replace(work, kind="sft", accumulate=1)
    held, (block, head) = Memory(parameter_bytes(work), data=data_bytes(work)), gathered_bytes(work)
    prompt, decoding = cache_bytes(work)
    fed = work.shape.start + work.prompt_tokens
    moments = (
        held._replace(
            cache=prompt,
            temporary=forward_bytes(work, fed) + converted_bytes(work) + block + head,
            moment="prompt",
        ),
        held._replace(
            cache=decoding + (prompt / 2 if work.platform == "tpu" else 0),
            logits=logits_bytes(replace(work, response_tokens=1))[0],
            temporary=converted_bytes(work) + head,
            moment="decoding",
        ),
    )
    return max(moments, key=lambda memory: memory.total)


def check(needed: Callable[[Work], Memory], work: Work, chip: Chip, devices: int) -> None:
    """Raise unless what ``needed`` (``training``, ``generation``, ``scoring``) finds fits into ``USABLE`` of a chip.

    Raises:
      ValueError: it does not fit, or the layout is not one of so many devices; says what is needed, what there is, and
        the nearest setting that fits.
    """
    if work.devices != devices:
        raise ValueError(
            f"data={work.data}, fsdp={work.fsdp} and tensor={work.tensor} are a layout of {work.devices} devices, and "
            f"there are {devices}."
        )
    if fits(needed, work, chip):
        return
    other = nearest(needed, work, chip)
    advice = f"nearest that fits: {describe(work, other)}" if other else f"not even {MOST} of them would do"
    raise ValueError(
        f"this needs {readable(needed(work).total)} on each of {devices} devices ({chip.name}), and a program can "
        f"count on {readable(USABLE * chip.memory_bytes)} of the {readable(chip.memory_bytes)} there are; {advice}."
    )


def fits(needed: Callable[[Work], Memory], work: Work, chip: Chip) -> bool:
    """Whether there is room on every device of the layout."""
    return needed(work).total <= USABLE * chip.memory_bytes


def nearest(needed: Callable[[Work], Memory], work: Work, chip: Chip) -> Work | None:
    """The first setting that fits, cheapest first: smaller parts, recomputing, splitting parameters, more devices.

    Smaller parts cost nothing while they keep a device busy, recomputing a forward pass, a split communication. The
    number of devices is doubled at most until there are ``MOST``; ``None`` if they are not enough.
    """
    return next((other for other in neighbours(needed, work) if fits(needed, other, chip)), None)


def describe(work: Work, other: Work) -> str:
    """What differs, as settings."""
    settings = {name: getattr(other, name) for name in ("rows", "accumulate", "data", "fsdp", "tensor")}
    changed = [f"{name}={value}" for name, value in settings.items() if value != getattr(work, name)]
    changed += ["remat=True"] if other.shape.remat and not work.shape.remat else []
    more = f" ({other.devices} devices)" if other.devices != work.devices else ""
    return ", ".join(changed) + more


def neighbours(needed: Callable[[Work], Memory], work: Work) -> Iterator[Work]:
    """Settings of the same work, cheapest first: as it is, smaller parts, recomputing, splitting, more devices."""
    recomputed = replace(work, shape=replace(work.shape, remat=True))
    both = (work, recomputed) if needed is training and not work.shape.remat else (work,)
    for data, fsdp in _layouts(work):
        for each in both:
            yield from _parts(needed, replace(each, data=data, fsdp=fsdp))


def _layouts(work: Work) -> Iterator[tuple[int, int]]:
    """(data, fsdp): as it is, then more of what is there split, then twice as many devices, and so on."""
    there, more = work.data * work.fsdp, work.devices
    yield from ((there // fsdp, fsdp) for fsdp in range(work.fsdp, there + 1) if there % fsdp == 0)
    while (more := 2 * more) <= MOST:
        yield 1, more // work.tensor


def _parts(needed: Callable[[Work], Memory], work: Work) -> Iterator[Work]:
    """Fewer rows at a time: more parts of a batch in training, and a smaller batch elsewhere."""
    shares = work.data * work.fsdp
    for parts in range(1, work.rows // shares + 1):
        if needed is training and parts >= work.accumulate and work.rows % (parts * shares) == 0:
            yield replace(work, accumulate=parts)
        if needed is not training and work.rows % parts == 0 and work.rows // parts % shares == 0:
            yield replace(work, rows=work.rows // parts)
