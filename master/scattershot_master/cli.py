"""The `scattershot` command: its subcommands, its errors, its exit codes.

Exit codes: 0 all went well, 1 it failed, 2 the study file, a flag or the environment is wrong,
130 a search was interrupted (and goes on when it is run again).
"""

from __future__ import annotations

import os

import typer

from scattershot_common.entry_points import program
from scattershot_common.errors import exit_on_error
from scattershot_common.standard_streams import command_streams
from scattershot_master.commands import check, doctor, ensemble, kill_stop, recipe, recover, run
from scattershot_master.commands import inspect as looking

app = typer.Typer(
    help="Random hyperparameter search for PyTorch, on one machine or a cluster.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(run.run)
app.command()(run.master)
app.command()(check.check)
app.command()(recipe.recipe)
app.command()(looking.status)
app.command()(looking.top)
app.command()(looking.show)
app.command()(looking.diagnose)
app.command()(kill_stop.kill)
app.command()(kill_stop.stop)
app.add_typer(ensemble.app, name="ensemble")
app.command()(looking.export)
app.command()(doctor.doctor)
app.command()(recover.recover)


@app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    }
)
def worker(context: typer.Context) -> None:
    """Take trials from a Redis and train them (see `scattershot worker --help`)."""
    # another process image: the worker is a wing of its own, and stays light
    command = [*program("worker"), *context.args]
    os.execv(command[0], command)


def main() -> None:
    """Run the command."""
    with command_streams():
        exit_on_error(app)
