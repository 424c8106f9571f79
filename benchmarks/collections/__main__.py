"""The command; see `score`."""

from benchmarks.collections.score import main

main()
