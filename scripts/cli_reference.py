"""Write docs/cli.md from the commands themselves; with `--check`, only say whether it is current.

Tables rather than the text of `--help`: that is wrapped to a terminal's width and would differ from
machine to machine.
"""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from visiondyno.cli import dyno as root_command

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"

HEADER = """# The command line

<!-- Written by `make docs` from the commands' own help. Change it there. -->

Every command prints its help with `--help`. Results go to standard output, progress and
messages to standard error.

| Exit code | Meaning |
| --- | --- |
| 0 | done |
| 1 | it failed for a reason that isn't your input |
| 2 | something is wrong with what was asked for, or this machine lacks it: the message says what |
| 3 | `--fail-if`: worse than the baseline allows |
| 130 | stopped by Ctrl-C |
| 143, 129 | stopped by SIGTERM, or because its terminal was closed |
"""


def command_tree(
    command: click.Command, context: click.Context
) -> Iterator[tuple[click.Command, click.Context]]:
    """The command and all below it, depth first, in the order that help lists them."""
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None, f"the group lists '{name}' but has no such command"
            if not child.hidden:
                yield from command_tree(child, click.Context(child, context, name))


def cell(text: str) -> str:
    """Text fit for a cell of a Markdown table."""
    return re.sub(r"\s+", " ", text).replace("|", r"\|").strip()


def paragraphs(command: click.Command) -> str:
    """The command's help as Markdown: click's marks taken out, lines joined."""
    text = inspect.cleandoc(command.help or command.short_help or "").split("\f")[0]
    blocks = []
    for block in re.split(r"\n\s*\n", text):
        if block.startswith("\b"):
            blocks.append("```text\n" + block.removeprefix("\b").strip("\n") + "\n```")
        elif block.strip():
            blocks.append(" ".join(line.strip() for line in block.splitlines()))
    return "\n\n".join(blocks)


def default_of(option: click.Option, context: click.Context) -> str:
    """What holds when the option isn't given, or an empty text."""
    if isinstance(option.show_default, str):
        return option.show_default
    default = option.get_default(context, call=False)
    if option.is_flag or callable(default) or not isinstance(default, int | float | str | tuple):
        return ""
    if isinstance(default, tuple):
        return ", ".join(f"`{item}`" for item in default)
    return f"`{default}`" if default != "" else ""


def split_default(option: click.Option, context: click.Context) -> tuple[str, str]:
    """The option's help, and its default: as click knows it, or as the help itself says."""
    text = option.help or ""
    if written := re.search(r"\s*\[default: ([^\]]+)\]", text):
        return text.replace(written.group(0), ""), written.group(1)
    return text, default_of(option, context)


def value_of(option: click.Option, context: click.Context) -> str:
    """What the option takes, as help shows it: empty for a flag."""
    if option.is_flag or option.count:
        return ""
    shown = option.make_metavar(context)
    return f" {shown}"


def option_rows(command: click.Command, context: click.Context) -> Iterator[str]:
    """One table row for each visible option."""
    for parameter in command.get_params(context):
        if not isinstance(parameter, click.Option) or parameter.hidden:
            continue
        if "--help" in parameter.opts:
            continue
        names = ", ".join([*parameter.opts, *parameter.secondary_opts])
        shown = f"`{cell(names + value_of(parameter, context))}`"
        required = " **Required.**" if parameter.required else ""
        again = " May be given several times." if parameter.multiple else ""
        said, default = split_default(parameter, context)
        yield f"| {shown} | {cell(said + required + again)} | {cell(default)} |"


def section(command: click.Command, context: click.Context) -> str:
    """One command: heading, usage, help, options, subcommands."""
    depth = len(context.command_path.split())
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    parts = [
        f"{'#' * min(depth + 1, 6)} `{context.command_path}`",
        f"```text\n{usage}\n```",
        paragraphs(command),
    ]
    rows = list(option_rows(command, context))
    if rows:
        parts.append(
            "\n".join(["| Option | What it does | Default |", "| --- | --- | --- |", *rows])
        )
    if isinstance(command, click.Group):
        parts.append("\n".join(subcommand_rows(command, context)))
    return "\n\n".join(part for part in parts if part)


def subcommand_rows(group: click.Group, context: click.Context) -> Iterator[str]:
    """A table of the group's commands, each linked to its section."""
    yield "| Command | What it does |"
    yield "| --- | --- |"
    for child, child_context in command_tree(group, context):
        if child_context.parent is context:
            path = child_context.command_path
            text = cell(child.get_short_help_str(limit=200))
            yield f"| [`{path}`](#{path.replace(' ', '-')}) | {text} |"


def reference() -> str:
    """The whole page."""
    context = click.Context(root_command, info_name="dyno")
    sections = [section(command, inner) for command, inner in command_tree(root_command, context)]
    return "\n\n".join([HEADER.rstrip(), *sections]) + "\n"


def main() -> int:
    """Write the page, or compare with `--check`."""
    wanted = reference()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(wanted, encoding="utf-8")
        print(f"Wrote {PAGE.relative_to(PAGE.parents[1])}")
        return 0
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != wanted:
        print("docs/cli.md isn't what the commands say; run: make docs", file=sys.stderr)
        return 1
    print("docs/cli.md: up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
