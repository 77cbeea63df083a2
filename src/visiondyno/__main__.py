"""`python -m visiondyno`: the command `dyno`, where its script isn't on the path."""

from visiondyno.cli import main

main()
