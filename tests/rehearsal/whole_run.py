"""A whole run of the recipe at a tiny size, and its rehearsal: ``python -m tests.rehearsal.whole_run FOLDER``.

A process of its own: what another test has compiled in this one would not be compiled again. It prints the programs
with a matrix product, and the starts of trainings, that only one of the two has.
"""

import json
import sys
from pathlib import Path

import jax
import tyro

from experiments.rehearsal.of_recipe import of_tasks
from experiments.tldr import command, corpus, parts, plan
from experiments.tldr.options import options_with
from gvgap_jax.runtime.compile_cache import keep_compiled_programs
from gvgap_jax.training import layouts
from tests.rehearsal.texts import plain
from tests.tldr.tiny_tldr import OPTIONS

SIZES = ["--dpo.epochs", "1.5", "--steps_a_dispatch", "4", "--evaluation_temperature", "0.5"]


def main(folder: Path) -> None:
    """Run with every compiled program written down, then lower what the rehearsal lists for as many rows."""
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_disable_most_optimizations", True)  # what is compiled is compared before them
    keep_compiled_programs()
    arguments = [*OPTIONS, *SIZES, "--out", str(folder / "out")]
    options = tyro.cli(options_with(arguments), args=arguments)
    found, prepare = {}, corpus.prepare

    def noted(run):
        run, text, unseen = prepare(run)
        prompts = corpus.online_prompts(run, text)
        sides = text.demonstrations.weight, text.comparisons.rows, unseen.pairs.weight, prompts, unseen.questions.rows
        found["numbers"] = parts.Numbers(*map(len, sides))
        return run, text, unseen

    corpus.prepare = noted
    jax.config.update("jax_dump_ir_to", str(folder / "compiled"))
    command.run(options)
    jax.config.update("jax_dump_ir_to", None)
    texts = [plain(path.read_text()) for path in sorted((folder / "compiled").iterdir())]
    compiled = {text for text in texts if "dot_general" in text or text.startswith("module @jit_begin ")}

    sizes = plan.sizes_of(options, 2)
    tasks = parts.tasks_of(options.recipe, sizes, found["numbers"])
    programs = of_tasks(tasks, options.recipe, layouts.layout(**sizes))
    listed = {each.name: each.lower().as_text().strip() for each in programs}
    missing = [text[:2000] for text in compiled - {*listed.values()}]
    more = [name for name, text in listed.items() if text not in compiled]
    print(json.dumps({"compiled": len(compiled), "listed": len({*listed.values()}), "missing": missing, "more": more}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
