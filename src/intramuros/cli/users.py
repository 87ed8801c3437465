"""``intramuros user``: the people of the organization, by the operator at the machine.

Only here are administrators made, changed and dismissed; the API cannot do that.
"""

from pathlib import Path
from typing import Annotated, Final

import anyio
import typer

from intramuros.cli.options import imported
from intramuros.cli.output import say, table
from intramuros.cli.upkeep import DataDir, Url

app = typer.Typer(
    help="People of the organization; administrators are made only here.", no_args_is_help=True
)

OPERATOR: Final = "intramuros.control.identity.operator"
Who = Annotated[str, typer.Argument(help="The user's id, user_…, or address.", metavar="USER")]
Role = Annotated[
    str,
    typer.Option(help="admin, billing, claude_code_user, developer, managed or user."),
]


@app.command("add")
def add(
    email: Annotated[str, typer.Argument(help="The person's address.")],
    name: Annotated[str, typer.Option(help="What people call them.")],
    role: Role = "user",
    data_dir: DataDir = Path("intramuros-data"),
    database_url: Url = None,
) -> None:
    """Make somebody a member without an invite, and print their id.

    Example: intramuros user add ada@example.com --name "Ada" --role admin --data-dir ./data
    """
    made = anyio.run(
        imported(OPERATOR, "server", "add_user"), data_dir, email, name, role, database_url
    )
    say(made["id"])


@app.command("role")
def role(
    who: Who, role: Role, data_dir: DataDir = Path("intramuros-data"), database_url: Url = None
) -> None:
    """Give a member a role, admin included; the last administrator stays one.

    Example: intramuros user role ada@example.com --role admin --data-dir ./data
    """
    made = anyio.run(imported(OPERATOR, "server", "set_role"), data_dir, who, role, database_url)
    say(f"{made['id']}\t{made['role']}")


@app.command("remove")
def remove(who: Who, data_dir: DataDir = Path("intramuros-data"), database_url: Url = None) -> None:
    """Take somebody out of the organization; what acts as them stops at once.

    Example: intramuros user remove ada@example.com --data-dir ./data
    """
    anyio.run(imported(OPERATOR, "server", "dismiss_user"), data_dir, who, database_url)


@app.command("list")
def list_all(data_dir: DataDir = Path("intramuros-data"), database_url: Url = None) -> None:
    """List the members, oldest first.

    Example: intramuros user list --data-dir ./data
    """
    found = anyio.run(imported(OPERATOR, "server", "list_users"), data_dir, database_url)
    table(("id", "role", "email", "name"), found)
