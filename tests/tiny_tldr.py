"""The recipe at a size that takes seconds."""

OPTIONS = (
    "--data.limit 200 --sft.epochs 1 --rm.epochs 1 --dpo.epochs 1 --samples 2 --online_prompts 32 "
    "--evaluation_prompts 16 --chunk 32 --steps_a_dispatch 2 --dispatches 1"
).split()
