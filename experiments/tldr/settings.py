"""What a run of the recipe is: every number in one frozen dataclass, and the presets."""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from typing import Any, Literal, get_args

from gvgap_jax.lm.data.forms import check_names
from gvgap_jax.lm.judges.secrets import check_address
from gvgap_jax.training.loop import Training

MEANING = 4  # raised where the same options give other numbers
TOY = "toy"  # names a world that is made on the spot, instead of a checkpoint and of data

Stage = Literal["sft", "rm", "dpo", "online", "evaluate"]
STAGES: tuple[Stage, ...] = get_args(Stage)
AGAIN = "sft_again"  # the SFT policy's answers drawn anew: against itself it must not win
BEST_OF_N = "best_of_n"
ARMS = ("sft", AGAIN, "dpo", "online_from_sft", "online_from_dpo", BEST_OF_N)
ONLINE_FROM = ("sft", "dpo")  # policies that the online round begins from
TABLES = ("answers", "verdicts", "pairs")

Descended = Literal["sft", "rm", "dpo"]  # options that say how a model is trained
RATES = ("learning_rate", "epochs")  # among them, those that must be above 0

TEMPLATES = ("tldr-1", "chat-1")  # of questions to an endpoint: those of ``verdicts``
Labeller = Literal["gold", "rouge_l", "reward_model", "endpoint"]


@dataclass(frozen=True)
class Descent:
    """How one model is trained.

    Attributes:
      batch: demonstrations or pairs a step.
      learning_rate: the highest one.
      schedule: course of the learning rate, from its highest value to the end.
      epochs: passes over the data.
      accumulate: equal parts that a batch goes through memory in.
    """

    batch: int
    learning_rate: float
    schedule: Literal["constant", "linear", "cosine"]
    epochs: float = 1.0
    accumulate: int = 1


@dataclass(frozen=True)
class Sizes:
    """The mesh of devices; -1 is what the others leave.

    Attributes:
      data: copies of the parameters, each with a share of every batch.
      fsdp: parts that parameters, the optimiser's memory and batches are split into.
      tensor: parts that heads, hidden units and the vocabulary are split into.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclass(frozen=True)
class Data:
    """Where text comes from: local files or folders of them (JSONL, JSON, Parquet, CSV), or data sets on the hub.

    Attributes:
      comparisons: pairs of responses with a choice.
      demonstrations: human responses, for SFT and as references.
      split: part of the data sets on the hub, or of folders whose files are named so.
      held_out: share of the prompts that no training sees, for evaluation.
      limit: at most so many rows of each kind, None for all.
      prompt_tokens: length of the longest prompt; longer ones are shortened.
      response_tokens: length of the longest demonstration or sample; longer ones are dropped.
      compared_tokens: length of the longest response of a pair; pairs with longer ones are dropped.
      form: names of the forms that comparisons and demonstrations are written in, where their keys do not say it.
    """

    comparisons: tuple[str, ...] = ("trl-lib/tldr-preference",)
    demonstrations: tuple[str, ...] = ("trl-lib/tldr",)
    split: str = "train"
    held_out: float = 0.05
    limit: int | None = None
    prompt_tokens: int = 512
    response_tokens: int = 53
    compared_tokens: int = 169
    form: tuple[str, ...] = ()

    def __post_init__(self):
        try:
            check_names(self.form)
        except ValueError as error:
            raise ValueError(f"--data.form: {error}") from error


@dataclass(frozen=True)
class Endpoint:
    """A judge that speaks the OpenAI chat protocol; without a model there is none.

    Attributes:
      model: its name on the server.
      base_url: address of the server.
      key_variable: environment variable that holds the key.
      cap: dollars that it may cost in all, at these prices.
      prompt_price: dollars per million tokens of prompts.
      answer_price: dollars per million tokens of answers.
      plain_http: send the key unencrypted to another machine where the address says http.
      temperature: of its answers; None leaves it to the server, as some models take no other than their own.
      answer_tokens: most tokens of an answer, thoughts included; models that reason need thousands.
      parallel: requests at a time.
      timeout: seconds for each of them.
      max_retries: tries after one that failed for a while.
    """

    model: str | None = None
    base_url: str = "https://api.openai.com/v1"
    key_variable: str = "OPENAI_API_KEY"
    cap: float = float("inf")
    prompt_price: float = 0.0
    answer_price: float = 0.0
    plain_http: bool = False
    temperature: float | None = 0.0
    answer_tokens: int = 256
    parallel: int = 16
    timeout: float = 60.0
    max_retries: int = 6

    @property
    def templates(self) -> tuple[str, ...]:
        """How a question is put: names of templates, from which the data choose."""
        return TEMPLATES

    def __post_init__(self):
        # Before it is stored with the run.
        check_address(self.base_url, self.key_variable, self.plain_http, "--endpoint.")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the numbers of a run, and what judges it.

    Attributes:
      model: checkpoint of the policy: a folder, or a name on the hub; ``toy`` writes a world of its own.
      revision: branch, tag or commit of the model on the hub.
      rm_size: checkpoint that reward models start from, of another size than the policy's; it has an SFT of its own.
      data: where text comes from.
      sft: supervised fine-tuning on the demonstrations.
      rm: training of the reward model.
      dpo: training by DPO, offline and online.
      beta: strength of the KL regularisation, reward per nat.
      samples: responses a prompt that online DPO and best-of-n choose from.
      temperature: that responses are sampled at for online DPO and best-of-n.
      online_prompts: prompts of the online round, None for those of the training pairs.
      two_words: responses are two words long: SFT on the first two words, pairs sampled from it and relabelled.
      rouge_l: pairs are relabelled by ROUGE-L against the hidden human response.
      narrow: pairs are sampled from the SFT policy and relabelled.
      labeller: who relabels: the toy world's gold verifier, ROUGE-L, ``gold_model``, or the endpoint.
      gold_model: checkpoint of a reward model that judges and relabels; if there is none, one that is trained on the
        held-out pairs judges.
      endpoint: a model behind an address that judges and relabels.
      evaluation_prompts: held-out prompts that every arm answers.
      evaluation_temperature: temperature that they are sampled at.
      seed: number that all randomness comes from.
      dtype: number format of activations.
      remat: recompute activations in the backward pass.
      steps_a_dispatch: steps between records of the curves.
      dispatches: records between checkpoints.
      chunk: prompts or pairs that are sampled or scored at once, and stored.
    """

    model: str = TOY
    revision: str | None = None
    rm_size: str | None = None
    data: Data = Data()
    sft: Descent = Descent(batch=128, learning_rate=3e-6, schedule="cosine")
    rm: Descent = Descent(batch=64, learning_rate=3e-6, schedule="cosine")
    dpo: Descent = Descent(batch=128, learning_rate=3e-7, schedule="linear")
    beta: float = 0.05
    samples: int = 25
    temperature: float = 1.0
    online_prompts: int | None = None
    two_words: bool = False
    rouge_l: bool = False
    narrow: bool = False
    labeller: Labeller | None = None
    gold_model: str | None = None
    endpoint: Endpoint = Endpoint()
    evaluation_prompts: int = 512
    evaluation_temperature: float = 1.0
    seed: int = 0
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    remat: bool = True
    steps_a_dispatch: int = 10
    dispatches: int = 5
    chunk: int = 64

    def __post_init__(self):
        self._check_numbers()
        if self.relabelled and self.label_source == "gold" and not self.in_toy_world:
            raise ValueError(
                "this variant relabels its pairs, and only the toy world has a gold verifier: choose --labeller "
                "rouge_l, reward_model (with --gold_model) or endpoint (with --endpoint.model)."
            )
        if self.relabelled and self.label_source == "reward_model" and self.gold_model is None:
            raise ValueError("--labeller reward_model needs --gold_model, the checkpoint of a reward model.")
        if self.relabelled and self.label_source == "endpoint" and self.endpoint.model is None:
            raise ValueError("--labeller endpoint needs --endpoint.model.")

    def _check_numbers(self) -> None:
        least = {"samples": 2, "evaluation_prompts": 2, "online_prompts": 1, "chunk": 1, "steps_a_dispatch": 1}
        least |= {"dispatches": 1, "data.limit": 1, "data.prompt_tokens": 1}
        least |= {"data.response_tokens": 1, "data.compared_tokens": 1}
        least |= {f"{name}.{size}": 1 for name in ("sft", "rm", "dpo") for size in ("batch", "accumulate")}
        for name, bound in least.items():
            value = value_of(self, name)
            if value is not None and value < bound:
                raise ValueError(f"--{name} must be at least {bound}, got {value}.")
        for name in ("beta", "temperature", *(f"{name}.{each}" for name in ("sft", "rm", "dpo") for each in RATES)):
            if not 0 < value_of(self, name) < math.inf:
                raise ValueError(f"--{name} must be a number above 0, got {value_of(self, name)}.")
        if not 0 <= self.evaluation_temperature < math.inf:
            raise ValueError(f"--evaluation_temperature must be at least 0, got {self.evaluation_temperature}.")
        for name in ("sft", "rm", "dpo"):
            how: Descent = getattr(self, name)
            if how.batch % how.accumulate:
                raise ValueError(f"--{name}.accumulate {how.accumulate} must divide --{name}.batch {how.batch}.")
        if not 0 < self.data.held_out < 1:
            raise ValueError(f"--data.held_out must be between 0 and 1, got {self.data.held_out}.")

    @property
    def in_toy_world(self) -> bool:
        """Whether all text is that of the toy world, whose gold verifier knows what is good."""
        return self.model == TOY and {*self.data.comparisons, *self.data.demonstrations} == {TOY}

    @property
    def resampled(self) -> bool:
        """Whether training pairs are sampled from the SFT policy."""
        return self.two_words or self.narrow

    @property
    def relabelled(self) -> bool:
        """Whether training pairs get other labels than the data's."""
        return self.resampled or self.rouge_l

    @property
    def label_source(self) -> Labeller:
        """Who relabels."""
        return "rouge_l" if self.rouge_l else self.labeller or "gold"


def value_of(recipe: Recipe, name: str) -> Any:
    """The value of an option of the command line."""
    return reduce(getattr, name.split("."), recipe)


def steps(how: Descent, rows: int) -> int:
    """Batches in which every row has been seen once an epoch; the next pass fills the last one up."""
    return math.ceil(Fraction(str(how.epochs)) * rows / how.batch)  # 0.1 is a tenth


def training(name: Descended, recipe: Recipe, rows: int) -> Training:
    """How a run descends on so many rows; ValueError if they are fewer than a batch."""
    descent: Descent = getattr(recipe, name)
    if rows < descent.batch:
        raise ValueError(
            f"{rows} rows are fewer than a batch of --{name}.batch {descent.batch}: choose a smaller one, or more data."
        )
    return Training(
        steps=steps(descent, rows),
        accumulate=descent.accumulate,
        schedule=descent.schedule,
        evaluate_every=1,
        steps_a_dispatch=recipe.steps_a_dispatch,
    )


def _pythia(size: str) -> Recipe:
    return Recipe(model=f"EleutherAI/pythia-{size}-deduped", evaluation_temperature=0.01, chunk=32)


PRESETS = {
    "laptop": Recipe(
        data=Data((TOY,), (TOY,), prompt_tokens=48, response_tokens=24, compared_tokens=24, held_out=0.15),
        sft=Descent(batch=32, learning_rate=2e-3, schedule="cosine", epochs=6),
        rm=Descent(batch=32, learning_rate=1e-3, schedule="cosine", epochs=2),
        dpo=Descent(batch=32, learning_rate=2e-4, schedule="linear", epochs=2),
        beta=0.5,
        samples=8,
        online_prompts=512,
        evaluation_prompts=256,
        dtype="float32",
        remat=False,
        steps_a_dispatch=20,
        chunk=64,
    ),
    "pythia-160m": _pythia("160m"),
    "pythia-410m": _pythia("410m"),
    "pythia-1b": _pythia("1b"),
    "pythia-1.4b": _pythia("1.4b"),
    "pythia-2.8b": _pythia("2.8b"),
    "pythia-6.9b": _pythia("6.9b"),
}
PresetName = Literal["laptop", "pythia-160m", "pythia-410m", "pythia-1b", "pythia-1.4b", "pythia-2.8b", "pythia-6.9b"]
