"""The recipe at a size that takes seconds."""

import shlex

OPTIONS = shlex.split(
    "--data.limit 150 --sft.batch 16 --rm.batch 8 --dpo.batch 16 --sft.epochs 1 --rm.epochs 1 --dpo.epochs 1 "
    "--samples 2 --online_prompts 32 --evaluation_prompts 16 --chunk 32 --steps_a_dispatch 1"
)
