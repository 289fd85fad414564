"""The recipe from a checkpoint that the transformers library wrote, to checkpoints that it opens."""

import numpy as np
import pytest

from experiments.cli.main import main
from experiments.tldr import toy
from gvgap_jax.lm.data import tokenizer
from gvgap_jax.lm.hf import load
from gvgap_jax.lm.model import transformer
from gvgap_jax.types import PADDING
from tests.tldr.tiny_tldr import OPTIONS

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """Where the stages of a run lie that began with a random model of transformers and TL;DR-shaped files."""
    folder = tmp_path_factory.mktemp("peers")
    toy.write(folder / "toy")
    torch.manual_seed(0)
    settings = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 64}
    config = transformers.GPTNeoXConfig(vocab_size=160, max_position_embeddings=128, **settings)
    transformers.GPTNeoXForCausalLM(config).save_pretrained(folder / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "model" / name).write_bytes((folder / "toy" / "model" / name).read_bytes())
    data = ["--data.demonstrations", folder / "toy" / "demonstrations.jsonl"]
    data += ["--data.comparisons", folder / "toy" / "comparisons.jsonl"]
    main(["run", "tldr", "--model", *map(str, [folder / "model", *data]), "--out", str(folder / "run"), *OPTIONS])
    return {path.name.rpartition("-")[0]: path / "model" for path in (folder / "run" / "seed-0").glob("*-*")}


@pytest.mark.parametrize("stage", ["sft", "dpo", "online_from_sft"])
def test_transformers_opens_every_policy(stages, stage):
    opened = transformers.AutoModelForCausalLM.from_pretrained(stages[stage], dtype=torch.float32)
    ours = load.open_checkpoint(stages[stage])
    tokens = np.array([tokenizer.open_tokenizer(stages[stage]).encode("POST: my boss moved out . i am sad .")])
    params = load.load(ours)
    states, _ = transformer.forward(ours.shape, params, tokens)
    with torch.no_grad():
        theirs = opened(torch.tensor(tokens)).logits.numpy()
    found = np.asarray(transformer.read(ours.shape, params, states))
    assert np.max(np.abs(found - theirs)) <= 1e-5 * np.max(np.abs(theirs))


def test_transformers_opens_the_reward_model(stages):
    folder = stages["reward_model"]
    opened = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    ours = load.open_checkpoint(folder)
    tokens = np.array([tokenizer.open_tokenizer(folder).encode("POST: my boss moved out . i am sad .")])
    params = load.load(ours, outputs=1)
    states, _ = transformer.forward(ours.shape, params, tokens)
    with torch.no_grad():
        theirs = opened(torch.tensor(tokens)).logits.item()
    assert transformer.read(ours.shape, params, states)[0, -1, 0] == pytest.approx(theirs, rel=1e-4)
    assert not np.any(tokens == PADDING)
    assert theirs != 0
