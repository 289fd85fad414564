"""``python -m experiments run NAME``: an experiment, all of them, or the recipe on language models."""

from experiments.cli import runner
from experiments.cli.arguments import All, backend_in, known_experiment, options_of, parsed, preset_in
from experiments.cli.run_all import run_all
from experiments.kit.backends import on_backend
from experiments.kit.terminal import PROGRAM, console, names
from experiments.questions import questions
from experiments.report.evidence import words_of
from experiments.tldr.options import Options, options_with
from gvgap_jax.runtime.packages import optional


def run(arguments: list[str]) -> None:
    """Run an experiment, all of them, or the recipe on language models.

    Records go into folders; what is there already is not computed again.

    Raises:
      ValueError: there is no experiment of the name, or it is not on the backend that the options name.
    """
    backend = backend_in(arguments)
    modules = on_backend(questions(), backend)
    if not arguments or arguments[0] in ("-h", "--help"):
        others = {"all": All.__doc__ or "", "tldr": run_tldr.__doc__ or ""}
        questions_asked = {name: words_of(module)[0] for name, module in modules.items()}
        console.print(names(f"usage: {PROGRAM} run NAME, or run NAME --help", questions_asked | others))
        return
    name, *rest = arguments
    if name.startswith("-"):
        raise ValueError(f"the experiment's name comes before its options, as in: run equivalence {name} …")
    if name == "all":
        run_all(modules, parsed(All, "run all", rest))
    elif name == "tldr":
        run_tldr(parsed(options_with(rest), "run tldr", rest))
    else:
        name = known_experiment(name, backend)
        options = options_of(name, modules[name], preset_in(rest), backend)
        runner.run(name, modules[name], parsed(options, f"run {name}", rest))


def run_tldr(options: Options) -> None:
    """The paper's recipe on language models, stage by stage.

    Raises:
      ValueError: a package of the extra ``tldr`` is not installed, or as its command raises.
    """
    optional("experiments.tldr.command").run(options)
