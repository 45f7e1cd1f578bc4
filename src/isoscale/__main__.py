"""`python -m isoscale` is the `isoscale` command."""

from isoscale.cli import main

main()
